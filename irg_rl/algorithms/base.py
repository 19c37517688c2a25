"""What an RL algorithm declares and does.

An algorithm is a class derived from `Algorithm`, in any module: `rl.algorithm: my.module:MyLoss`. Driver, plan, learner
and report read what it declares and never ask for its name:

| who | reads |
|---|---|
| recipe | `Settings`, `uses_credit`, `ignores`, `learns_offline`, `problems` |
| sampler | `records_steps`: which images are drawn with their denoising steps kept |
| critic, collector | `select`, `why_empty`, `advice` |
| learner | `old_schedule`, `needs_reference`, `keeps_first_weights`, `clip_image`, `minibatches` |
| plan | `forwards`, `levels_per_image`, `pairs_per_group` |
| report | `curves` |

Algorithms that train each segment by its own advantage derive from `joint.JointAlgorithm`, those of them that train on
drawn images from `noising.NoisedAlgorithm`: both leave only the loss of a token and of an image to write.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

from torch import Tensor

from irg_rl import credit
from irg_rl.config import Recipe, algorithm_class
from irg_rl.curve import Curve
from irg_rl.imports import import_named
from irg_rl.learner.old_weights import OldPolicySchedule, OldWeights
from irg_rl.learner.process_group import Rank
from irg_rl.learner.ratio_check import require_law, require_texts_law
from irg_rl.learner.replay import Replay, ReplayPack
from irg_rl.losses import text
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput
from irg_rl.sections import Section
from irg_rl.trajectory import Group, SamplingLaw, Trajectory

TEXT, IMAGE = "text", "image"
CLIP_IMAGE = 1e-3
"""Clip range of a denoising step, by which the ratio check measures where an algorithm has none of its own."""
OF_SAMPLING = {"forks": "null", "guidance": "null", "staleness": 0, "dump_every": 0}
"""Settings of `rl` that are about sampling alone, and what each is where nothing is sampled."""

Options = TypeVar("Options", bound=Section)


@dataclass(frozen=True)
class Shared:
    """Settings that algorithms share; config/rl.py says what they mean."""

    text_loss: str = "dapo"  # losses.text.TextLoss
    importance: str = "token"  # losses.text.Importance
    clip_text: tuple[float, float] = (0.2, 0.28)
    mismatch_cap: float = 2.0
    text_weight: float = 1.0
    image_weight: float = 1.0
    kl_text: float = 0.0
    kl_image: float = 0.0
    max_text_tokens: int | None = None  # dr_grpo's constant denominator
    shift: float = 1.0  # of the time grid that samples are drawn on, and so of noise levels
    reward_weights: Mapping[str, float] = field(default_factory=dict)  # of the scores in an image's reward

    def __post_init__(self) -> None:
        text.TextLoss(self.text_loss)
        text.Importance(self.importance)
        if self.text_loss == text.TextLoss.DR_GRPO and self.max_text_tokens is None:
            raise ValueError("text_loss dr_grpo needs max_text_tokens, its constant denominator")

    @classmethod
    def of(cls, recipe: Recipe) -> "Shared":
        rl = recipe.require_rl()
        return cls(
            rl.text_loss, rl.importance, rl.clip_text, rl.mismatch_cap, rl.text_weight, rl.image_weight, rl.kl_text,
            rl.kl_image, recipe.sampling.max_text_tokens, recipe.sampling.shift, reward_weights(recipe),
        )  # fmt: skip


def reward_weights(recipe: Recipe) -> dict[str, float]:
    """Weights of the scorers that make up an image's reward; held-out ones are not among them."""
    return {s.name: s.weight for s in recipe.rewards.scorers if s.of == "image" and not s.held_out}


def segment_weights(recipe: Recipe) -> dict[str, float]:
    """Weights of the scorers of reflections and edits; held-out ones are not among them."""
    return {s.name: s.weight for s in recipe.rewards.scorers if s.of != "image" and not s.held_out}


@dataclass(frozen=True)
class Selection:
    """What of a scored group is trained. `has_spread`: its rewards tell its samples apart; a group without is replaced
    while the update may sample more. `empty`: nothing of it is trained. `counts`: summed over all groups that were
    judged since the last update, and logged under these names."""

    has_spread: bool
    empty: bool
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What a group of a folder of rollouts holds for training: units that can be trained, ties, and units that no pack
    holds."""

    usable: int
    ties: int = 0
    too_long: int = 0


@dataclass
class RankContext:
    """What a rank of the learner lends to the algorithm for an update."""

    engine: Any  # learner.engine.Engine
    replay: Replay
    place: Rank
    law: SamplingLaw
    precision: str  # of forwards: fp32 or bf16
    seed: int
    max_pack_tokens: int
    offline: bool = False  # groups may have been sampled by other weights
    old: OldWeights | None = None  # with `old_schedule`
    first: Mapping[str, Tensor] | None = None  # with `keeps_first_weights`: those of the stage's beginning
    reference: Callable[[Pack], ModelOutput] | None = None  # with `needs_reference`: the base model, without gradients

    @property
    def begun(self) -> int:
        """Optimizer steps that were begun before this one: a name for random numbers."""
        return self.engine.steps + self.engine.skipped

    def packs(self, trajectories: Sequence[Trajectory]) -> list[ReplayPack]:
        """This rank's."""
        with self.engine.watch("packing"):
            return self.replay.packs(trajectories, self.place.rank, self.place.world_size)

    def require_law(self, trajectories: Sequence[Trajectory]) -> None:
        """RatioError for a trajectory that was drawn otherwise than it is scored."""
        (require_texts_law if self.offline else require_law)(trajectories, self.law)

    def trainable(self, groups: Sequence[Group]) -> list[Trajectory]:
        """Trajectories with an advantage, in group order. Raises ValueError when there is none, RatioError when one was
        drawn by another law."""
        found = [t for g in groups for t in g.trajectories if any(s.advantage is not None for s in t.segments)]
        if not found:
            raise ValueError(f"none of {len(groups)} groups has a trajectory with an advantage")
        self.require_law(found)
        return found


class Algorithm(Generic[Options]):
    """See the module. `options`: of its own `Settings`; `shared`: those of `rl` that several have."""

    Settings: ClassVar[type[Section]] = Section
    uses_credit: ClassVar[bool] = True
    """Whether advantages come from `rl.credit`; otherwise `select` sets them."""
    learns_offline: ClassVar[bool] = False
    """Whether it may learn from a folder of rollouts that other weights have sampled; then it has `material`."""
    keeps_first_weights: ClassVar[bool] = False
    """Whether it compares with the weights that the stage began with."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Settings of `rl` that change nothing here; setting one is an error."""
    needs_raw_rewards: ClassVar[str] = ""
    """Why rewards must be weighted sums, not z-scores; empty where either will do."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """Figures of the report beside those of all RL."""
    progress: ClassVar[str] = "loss/text"
    """The metric beside the progress bar where nothing is sampled."""
    advice: ClassVar[str] = "choose another rl.credit or train SFT longer"
    """What to do when group after group has nothing to train on."""

    def __init__(self, options: Options | None = None, shared: Shared | None = None) -> None:
        self.options = cast(Options, self.Settings()) if options is None else options
        self.shared = Shared() if shared is None else shared

    @classmethod
    def of(cls, recipe: Recipe) -> "Algorithm[Any]":
        return cls(cast(Any, recipe.require_rl().options), Shared.of(recipe))

    def __reduce__(self) -> tuple:
        """By the path of its class, which a process of its own imports as a recipe's name is imported."""
        path = f"{type(self).__module__}:{type(self).__qualname__}"
        return _again, (path, self.options.model_dump(), self.shared)

    # declarations

    @property
    def records_steps(self) -> bool:
        """Whether the sampler keeps the noisy denoising steps, which are then replayed: images need `rl.noise` and
        cannot be guided."""
        return False

    @property
    def old_schedule(self) -> OldPolicySchedule | None:
        """How the weights that sample follow the trained ones; None: the trained weights sample."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Whether losses have a KL to the base model."""
        return self.shared.kl_text > 0 or self.shared.kl_image > 0

    @property
    def clip_image(self) -> float:
        """Clip range of a denoising step; the ratio check allows a fifth of it."""
        return CLIP_IMAGE

    @property
    def levels_per_image(self) -> int:
        """Noise levels that an image is trained at where no steps are recorded."""
        return 0

    @property
    def pairs_per_group(self) -> int | None:
        """Most pairs of a group where pairs are trained; None where trajectories are."""
        return None

    def forwards(self, precision: str) -> dict[str, int]:
        """Forwards over each pack of an update, by what they are for."""
        return {"trained": 1} | ({"reference": 1} if self.needs_reference else {})

    def problems(self, recipe: Recipe) -> list[str]:
        """Settings that contradict each other or change nothing, a sentence each."""
        rl = recipe.require_rl()
        name, problems = f"rl.algorithm {rl.algorithm}", []
        if self.records_steps and rl.noise is None:
            problems.append(f"{name} trains noisy denoising steps: give rl.noise, or take nft, awm or dpo")
        if self.records_steps and rl.guidance is not None:
            problems.append(
                f"rl.guidance: guided images cannot be replayed in one forward, which {name} does; leave it out, or "
                "take nft, awm or dpo, which train on the drawn images"
            )
        ignored = (*self.ignores, *(() if self.uses_credit else ("credit",)))
        for setting in ignored:
            usual = None if setting == "credit" else type(rl).model_fields[setting].default
            if vars(rl)[setting] != usual:
                shown = "null" if usual is None else list(usual) if isinstance(usual, tuple) else usual
                problems.append(f"rl.{setting} has no effect with {name}: set rl.{setting}={shown}")
        if self.needs_raw_rewards and recipe.rewards.combine == "zscore_sum":
            problems.append(
                f"{name} {self.needs_raw_rewards}, which a z-score cannot say: set rewards.combine=sum"
            )
        if rl.rollouts is None:
            return problems
        if not self.learns_offline:
            return [*problems, f"rl.rollouts: {name} learns from samples of its own policy; take dpo, or leave it out"]
        return problems + [
            f"rl.{sampled} has no effect with rl.rollouts, where nothing is sampled: set rl.{sampled}={unset}"
            for sampled, unset in OF_SAMPLING.items()
            if vars(rl)[sampled]
        ]

    def notes(self, recipe: Recipe) -> list[str]:
        """Settings that do nothing beside the others and yet are no mistake: said before RL begins."""
        noise = recipe.require_rl().noise
        if noise is None or noise.window != "all":
            return []
        if noise.window_size == type(noise).model_fields["window_size"].default:
            return []
        return [f"rl.noise.window_size {noise.window_size} has no effect with rl.noise.window all"]

    # of a scored group

    def select(self, group: Group, give_credit: Callable[[], credit.Summary]) -> Selection:
        """Decide what of a scored group is trained, by the `advantage` of its segments; None: not trained."""
        summary = give_credit()
        return Selection(summary.has_spread, summary.empty)

    def why_empty(self, groups: str) -> str:
        """The reason for dropping `groups` ("its group", "the last 20 groups") that have nothing to train on."""
        return f"no segment of {groups} got an advantage"

    # of an update

    def minibatches(
        self, rank: RankContext, groups: Sequence[Group], metrics: dict[str, float], parts: int
    ) -> Iterator[tuple[list[Pack], Any]]:
        """Packs of this rank and their loss, for one of at most `parts` optimizer steps after the other, each made when
        the one before has been done. Nothing: the update is skipped. `metrics` takes what is to be logged beside.

        A loss is called with the output of a pack, its index and the global denominators, and gives a `Loss`;
        `loss.denominators()` are those of this rank.
        """
        raise NotImplementedError

    def why_skipped(self, updates: int, max_pack_tokens: int) -> str:
        """What to say when `updates` in a row were skipped."""
        return f"no update of the last {updates} had anything to train on"

    def material(self, group: Group, replay: Replay, limit: int) -> Material:
        """With `learns_offline`: what a group holds for packs of `limit` tokens."""
        raise NotImplementedError


def _again(path: str, options: dict[str, Any], shared: Shared) -> Algorithm[Any]:
    made = import_named(path, {}, "rl.algorithm")
    return made(made.Settings.model_validate(options), shared)


def algorithm_of(recipe: Recipe) -> Algorithm[Any]:
    """The recipe's algorithm."""
    return algorithm_type(recipe.require_rl().algorithm).of(recipe)


def algorithm_type(name: str) -> type[Algorithm[Any]]:
    """The class that `rl.algorithm` names. InputError where there is none."""
    return cast("type[Algorithm[Any]]", algorithm_class(name))

"""What an RL algorithm declares and does.

An algorithm is a class derived from `Algorithm`, in any module: `rl.algorithm: my.module:MyLoss`. Driver, plan, learner
and report read its declarations and never its name:

| who | reads |
|---|---|
| recipe | `Settings`, `uses_credit`, `ignores`, `learns_offline`, `problems` |
| sampler | `records_steps`: which images are drawn with their denoising steps kept |
| critic, collector | `select`, `why_empty`, `advice` |
| learner | `old_schedule`, `needs_reference`, `keeps_first_weights`, `clip_image`, `minibatches` |
| plan | `forwards`, `levels_per_image`, `pairs_per_group` |
| report | `curves` |

Algorithms that train each segment by its own advantage derive from `joint.JointAlgorithm`. If they train on drawn
images with fresh noise, they derive from `noising.NoisedAlgorithm`. Then only the losses of a token and of an image are
left to write.
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
"""Clip range of a denoising step for the ratio check, if the algorithm has none of its own."""
OF_SAMPLING = {"forks": "null", "guidance": "null", "staleness": 0, "dump_every": 0}
"""Settings of `rl` that matter only for sampling -> their values if nothing is sampled."""

Options = TypeVar("Options", bound=Section)


@dataclass(frozen=True)
class Shared:
    """Settings of `rl` that several algorithms use. config/rl.py explains them."""

    text_loss: str = "dapo"  # losses.text.TextLoss
    importance: str = "token"  # losses.text.Importance
    clip_text: tuple[float, float] = (0.2, 0.28)
    mismatch_cap: float = 2.0
    text_weight: float = 1.0
    image_weight: float = 1.0
    kl_text: float = 0.0
    kl_image: float = 0.0
    max_text_tokens: int | None = None  # the constant denominator of dr_grpo
    shift: float = 1.0  # shift of the sampler's time grid, also used for noise levels
    reward_weights: Mapping[str, float] = field(default_factory=dict)  # scorer -> weight in the reward of an image

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
    """What `select` decided about a scored group.

    has_spread: the rewards of its samples differ. A group without spread is replaced as long as more may be sampled.
    empty: it has nothing to train on.
    counts: name -> number, summed over all groups that were scored since the last update, and logged.
    """

    has_spread: bool
    empty: bool
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """Numbers of training units in groups of stored rollouts: usable ones, ties, and those too long for a pack."""

    usable: int
    ties: int = 0
    too_long: int = 0


@dataclass
class RankContext:
    """What the algorithm gets from the learner's rank for one update."""

    engine: Any  # learner.engine.Engine
    replay: Replay
    place: Rank
    law: SamplingLaw
    precision: str  # precision of forwards: fp32 or bf16
    seed: int
    max_pack_tokens: int
    offline: bool = False  # other weights may have sampled the groups
    old: OldWeights | None = None  # with `old_schedule`
    first: Mapping[str, Tensor] | None = None  # with `keeps_first_weights`: the first weights of the stage
    reference: Callable[[Pack], ModelOutput] | None = None  # with `needs_reference`: the base model, without gradients

    @property
    def begun(self) -> int:
        """Number of earlier optimizer steps. It names random numbers."""
        return self.engine.steps + self.engine.skipped

    def packs(self, trajectories: Sequence[Trajectory]) -> list[ReplayPack]:
        """The packs of this rank."""
        with self.engine.watch("packing"):
            return self.replay.packs(trajectories, self.place.rank, self.place.world_size)

    def require_law(self, trajectories: Sequence[Trajectory]) -> None:
        """RatioError if a trajectory was sampled with another law than the learner's."""
        (require_texts_law if self.offline else require_law)(trajectories, self.law)

    def trainable(self, groups: Sequence[Group]) -> list[Trajectory]:
        """Trajectories with an advantage, in the order of the groups. ValueError if there are none. RatioError if one
        was sampled with another law."""
        found = [t for g in groups for t in g.trajectories if any(s.advantage is not None for s in t.segments)]
        if not found:
            raise ValueError(f"none of {len(groups)} groups has a trajectory with an advantage")
        self.require_law(found)
        return found


class Algorithm(Generic[Options]):
    """Base class of algorithms; see the module. `options`: the algorithm's own `Settings`. `shared`: settings of
    `rl`."""

    Settings: ClassVar[type[Section]] = Section
    uses_credit: ClassVar[bool] = True
    """Whether advantages come from `rl.credit`. Otherwise `select` sets them."""
    learns_offline: ClassVar[bool] = False
    """Whether it can learn from stored rollouts of other weights. Then it must have `material`."""
    keeps_first_weights: ClassVar[bool] = False
    """Whether it needs the weights from the beginning of the stage."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Settings of `rl` that have no effect with this algorithm. Setting one is an error."""
    needs_raw_rewards: ClassVar[str] = ""
    """Why rewards must be weighted sums and not z-scores. Empty: both are possible."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """Figures that the report shows in addition to those of every RL run."""
    progress: ClassVar[str] = "loss/text"
    """Metric that the progress bar shows if nothing is sampled."""
    advice: ClassVar[str] = "choose another rl.credit or train SFT longer"
    """For the error message: what to change if groups keep having nothing to train on."""

    def __init__(self, options: Options | None = None, shared: Shared | None = None) -> None:
        self.options = cast(Options, self.Settings()) if options is None else options
        self.shared = Shared() if shared is None else shared

    @classmethod
    def of(cls, recipe: Recipe) -> "Algorithm[Any]":
        return cls(cast(Any, recipe.require_rl().options), Shared.of(recipe))

    def __reduce__(self) -> tuple:
        """Pickle the import path of the class instead of the class, so that another process imports it as a recipe
        does."""
        path = f"{type(self).__module__}:{type(self).__qualname__}"
        return _again, (path, self.options.model_dump(), self.shared)

    # declarations

    @property
    def records_steps(self) -> bool:
        """Whether the sampler keeps the stochastic denoising steps for replay. Then images need `rl.noise` and cannot
        be guided."""
        return False

    @property
    def old_schedule(self) -> OldPolicySchedule | None:
        """Schedule by which the sampling weights follow the trained ones. None: the trained weights sample."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Whether losses have a KL term to the base model."""
        return self.shared.kl_text > 0 or self.shared.kl_image > 0

    @property
    def clip_image(self) -> float:
        """Clip range of a denoising step. The ratio check allows a fifth of it."""
        return CLIP_IMAGE

    @property
    def levels_per_image(self) -> int:
        """Number of noise levels per image if no steps are recorded."""
        return 0

    @property
    def pairs_per_group(self) -> int | None:
        """Largest number of pairs per group. None: the algorithm trains trajectories, not pairs."""
        return None

    def forwards(self, precision: str) -> dict[str, int]:
        """Purpose -> number of forwards over each pack of an update."""
        return {"trained": 1} | ({"reference": 1} if self.needs_reference else {})

    def problems(self, recipe: Recipe) -> list[str]:
        """One sentence per setting that contradicts another one or has no effect."""
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
        """Notes that are printed before RL: settings that have no effect but are not an error."""
        noise = recipe.require_rl().noise
        if noise is None or noise.window != "all":
            return []
        if noise.window_size == type(noise).model_fields["window_size"].default:
            return []
        return [f"rl.noise.window_size {noise.window_size} has no effect with rl.noise.window all"]

    # of a scored group

    def select(self, group: Group, give_credit: Callable[[], credit.Summary]) -> Selection:
        """Decide what is trained of a scored group: set the `advantage` of its segments. None: not trained."""
        summary = give_credit()
        return Selection(summary.has_spread, summary.empty)

    def why_empty(self, groups: str) -> str:
        """The reason why `groups` ("its group", "the last 20 groups") have nothing to train on."""
        return f"no segment of {groups} got an advantage"

    # of an update

    def minibatches(
        self, rank: RankContext, groups: Sequence[Group], metrics: dict[str, float], parts: int
    ) -> Iterator[tuple[list[Pack], Any]]:
        """Yield (packs of this rank, loss) for each optimizer step, at most `parts` of them.

        The next pair is made only after the step before is done. If nothing is yielded, the update is skipped.
        `metrics` takes additional numbers for the log. A loss is called with the output of a pack, the index of the
        pack and the global denominators, and returns a `Loss`. `loss.denominators()` are those of this rank.
        """
        raise NotImplementedError

    def why_skipped(self, updates: int, max_pack_tokens: int) -> str:
        """Error message if `updates` updates in a row were skipped."""
        return f"no update of the last {updates} had anything to train on"

    def material(self, group: Group, replay: Replay, limit: int) -> Material:
        """With `learns_offline`: the training units of a group, for packs of `limit` tokens."""
        raise NotImplementedError


def _again(path: str, options: dict[str, Any], shared: Shared) -> Algorithm[Any]:
    made = import_named(path, {}, "rl.algorithm")
    return made(made.Settings.model_validate(options), shared)


def algorithm_of(recipe: Recipe) -> Algorithm[Any]:
    """The recipe's algorithm."""
    return algorithm_type(recipe.require_rl().algorithm).of(recipe)


def algorithm_type(name: str) -> type[Algorithm[Any]]:
    """The class that `rl.algorithm` names. InputError if there is none."""
    return cast("type[Algorithm[Any]]", algorithm_class(name))

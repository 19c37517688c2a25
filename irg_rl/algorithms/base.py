"""The interface of an RL algorithm: its settings, attributes and methods.

An algorithm is a class derived from `Algorithm`. It may be in any module. The recipe names the class by its path, for
example `rl.algorithm: my.module:MyLoss`. The rest of the program does not depend on the class. It uses only attributes
and methods of this interface, mainly these:

| part of the program | what it uses |
|---|---|
| check of the recipe | `Settings`, `uses_credit`, `ignores`, `learns_offline`, `problems` |
| sampler | `records_steps`: whether the denoising steps of drawn images are stored |
| critic and collector (they score and collect groups) | `select`, `why_empty`, `advice` |
| learner | `old_schedule`, `needs_reference`, `keeps_first_weights`, `clip_image`, `minibatches` |
| `irg-rl plan` (it estimates memory and time) | `forwards`, `levels_per_image`, `pairs_per_group` |
| report of the run | `curves` |

Two subclasses of `Algorithm` already do most of the work. A class derived from one of them only has to define its
losses:
* `joint.JointAlgorithm` trains each segment (a text or an image) with the segment's own advantage.
* `noising.NoisedAlgorithm` does the same, and trains on drawn images with fresh noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

from torch import Tensor

from irg_rl import credit
from irg_rl.config import Recipe, algorithm_class
from irg_rl.config.rewards import OF_IMAGES
from irg_rl.curve import Curve
from irg_rl.imports import import_named
from irg_rl.learner.old_weights import OldPolicySchedule, OldWeights
from irg_rl.learner.process_group import Rank
from irg_rl.learner.ratio_check import require_law, require_texts_law
from irg_rl.learner.replay import Replay, ReplayPack
from irg_rl.losses import text
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput
from irg_rl.prompts import fits
from irg_rl.sections import Section
from irg_rl.trajectory import Group, Modality, Prompt, SamplingLaw, Trajectory

LOSS_TERMS = TEXT, IMAGE = "text", "image"
"""Names of the terms of the loss. The gradient norm of each term can be measured (`rl.probe_every`)."""
CLIP_IMAGE = 1e-3
"""Clip range of a denoising step in the ratio check, which compares the log-probabilities of sampler and learner. It is
used if the algorithm has no clip range of its own."""
OF_SAMPLING = {"forks": "null", "guidance": "null", "staleness": 0, "dump_every": 0}
"""Settings of `rl` that matter only for sampling. The dict maps the name of each setting to the value that it must have
if nothing is sampled."""

Conditions = Mapping[str, Mapping[str, Any]]
"""A dict from the name of a scorer to its `when`: the fields of a prompt's metadata and the values that they must
have."""
Options = TypeVar("Options", bound=Section)


@dataclass(frozen=True)
class Shared:
    """Settings that several algorithms use. They come from the section `rl` of a recipe, and config/rl.py explains each
    setting."""

    text_loss: str = "dapo"  # losses.text.TextLoss
    importance: str = "token"  # losses.text.Importance
    clip_text: tuple[float, float] = (0.2, 0.28)
    mismatch_cap: float = 2.0
    text_weight: float = 1.0
    image_weight: float = 1.0
    kl_text: float = 0.0
    kl_image: float = 0.0
    max_text_tokens: int | None = None  # constant denominator of the text loss dr_grpo
    shift: float = 1.0  # time shift of the sampler's grid, also used for noise levels
    reward_weights: Mapping[str, float] = field(default_factory=dict)  # scorer -> weight in the reward of an image
    conditions: Conditions = field(default_factory=dict)  # scorer -> prompts that it is used for

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
            scorer_conditions(recipe),
        )  # fmt: skip

    def weights_for(self, prompt: Prompt) -> dict[str, float]:
        """Return a dict from scorer name to weight, for the scorers that are used for this prompt."""
        return applying(self.reward_weights, self.conditions, prompt)


def reward_weights(recipe: Recipe) -> dict[str, float]:
    """Return a dict from scorer name to weight, for the scorers of images. The weighted scores make up the reward of an
    image. Held-out scorers are left out, because their scores are only logged."""
    return {s.name: s.weight for s in recipe.rewards.scorers if s.of in OF_IMAGES and not s.held_out}


def segment_weights(recipe: Recipe) -> dict[str, float]:
    """Return a dict from scorer name to weight, for the scorers of reflections and edits. Held-out scorers are left
    out, because their scores are only logged."""
    return {s.name: s.weight for s in recipe.rewards.scorers if s.of in ("reflection", "edit") and not s.held_out}


def statement_weights(recipe: Recipe) -> dict[str, float]:
    """Return a dict from scorer name to weight, for the scorers of single statements that are not held out."""
    return {s.name: s.weight for s in recipe.rewards.scorers if s.of == "statement" and not s.held_out}


def held_modalities(recipe: Recipe) -> tuple[Modality, ...]:
    """Return the modalities whose segments a KL term holds near the reference model."""
    rl = recipe.require_rl()
    return tuple(one for one, weight in ((Modality.TEXT, rl.kl_text), (Modality.IMAGE, rl.kl_image)) if weight)


def scorer_conditions(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """Return a dict from scorer name to its `when` (the prompts that it is used for). Scorers that are used for all
    prompts are left out."""
    return {s.name: s.when for s in recipe.rewards.scorers if s.when}


def applying(weights: Mapping[str, float], conditions: Conditions, prompt: Prompt) -> dict[str, float]:
    """Return the weights of those scorers that are used for this prompt. A scorer without a condition is used for all
    prompts."""
    return {name: weight for name, weight in weights.items() if fits(prompt, conditions.get(name, {}))}


@dataclass(frozen=True)
class Selection:
    """What `Algorithm.select` has decided about a scored group (several samples of one prompt).

    has_spread: whether the rewards of the group's samples differ. If they do not differ, a new group replaces this
    group. The number of such replacements is limited.

    empty: whether the group has nothing to train on.

    counts: a dict from a name to a number for the log. Before logging, the numbers are summed over all groups scored
    since the last update.
    """

    has_spread: bool
    empty: bool
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """The amount of training material in one or several stored groups. A group is several samples of one prompt. Each
    algorithm counts the material in its own unit. For DPO a unit is a preference pair. The fields are numbers of units:
    * `usable`: units that can be trained
    * `ties`: units that are left out because their rewards are too close
    * `too_long`: units that do not fit into one pack (the token sequence of one forward pass)"""

    usable: int
    ties: int = 0
    too_long: int = 0


@dataclass
class RankContext:
    """Everything that one learner process (rank) gives to the algorithm for one update: the training engine, the code
    that builds packs, the sampling settings, the seed, and the other sets of weights that the algorithm has asked for.
    """

    engine: Any  # learner.engine.Engine
    replay: Replay
    place: Rank
    law: SamplingLaw
    precision: str  # precision of forwards: fp32 or bf16
    seed: int
    max_pack_tokens: int
    offline: bool = False  # True: other weights may have sampled the groups
    old: OldWeights | None = None  # set if the algorithm has an `old_schedule`
    first: Mapping[str, Tensor] | None = None  # initial weights of the stage; set with `keeps_first_weights`
    reference: Callable[[Pack], ModelOutput] | None = None  # base model without gradients; set with `needs_reference`

    @property
    def begun(self) -> int:
        """Return the number of optimizer steps before the current step. This number is part of the seed of random
        numbers."""
        return self.engine.steps + self.engine.skipped

    def packs(self, trajectories: Sequence[Trajectory]) -> list[ReplayPack]:
        """Join the trajectories into packs, the token sequences of the forward passes. Return only the packs of this
        rank (learner process)."""
        with self.engine.watch("packing"):
            return self.replay.packs(trajectories, self.place.rank, self.place.world_size)

    def require_law(self, trajectories: Sequence[Trajectory]) -> None:
        """Raise RatioError if the law of a trajectory differs from the law of the learner. A law is the set of sampling
        settings that change log-probabilities, such as the temperature. If the attribute `offline` is true, other
        weights may have sampled the groups. Then only the settings of texts are checked."""
        (require_texts_law if self.offline else require_law)(trajectories, self.law)

    def trainable(self, groups: Sequence[Group]) -> list[Trajectory]:
        """Return the trajectories with at least one trained segment, in the order of the groups. A segment is a text or
        an image. A trained segment has an advantage.

        Raises ValueError if there is no such trajectory. Raises RatioError if the sampling settings of a trajectory
        differ from the settings of the learner (see `require_law`).
        """
        found = [t for g in groups for t in g.trajectories if any(s.advantage is not None for s in t.segments)]
        if not found:
            raise ValueError(f"none of {len(groups)} groups has a trajectory with an advantage")
        self.require_law(found)
        return found


class Algorithm(Generic[Options]):
    """Base class of all RL algorithms. A table at the top of this module lists the attributes and methods that the rest
    of the program reads.

    `options` are the settings of this algorithm (an instance of `Settings`). `shared` are settings of `rl` that several
    algorithms use.
    """

    Settings: ClassVar[type[Section]] = Section
    uses_credit: ClassVar[bool] = True
    """Whether the advantages come from the credit scheme `rl.credit`, a function that computes advantages from rewards.
    If false, the method `select` sets the advantages."""
    learns_offline: ClassVar[bool] = False
    """Whether the algorithm can learn from stored rollouts that were sampled with other weights. If true, the algorithm
    must define `material`."""
    keeps_first_weights: ClassVar[bool] = False
    """Whether the learner must keep a copy of the weights at the beginning of the RL stage."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Names of settings of `rl` that have no effect with this algorithm. A recipe that changes one of them is
    invalid."""
    needs_raw_rewards: ClassVar[str] = ""
    """The reason why this algorithm needs rewards that are weighted sums of scores, and not sums of z-scores. It is
    part of an error message. It is empty if the algorithm accepts both."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """Figures that the report shows for this algorithm, in addition to the figures of every RL run."""
    progress: ClassVar[str] = "loss/text"
    """Name of the metric that the progress bar shows in RL without sampling."""
    advice: ClassVar[str] = "choose another rl.credit or train SFT longer"
    """Part of an error message: what the user can change if the groups repeatedly have nothing to train on."""

    def __init__(self, options: Options | None = None, shared: Shared | None = None) -> None:
        self.options = cast(Options, self.Settings()) if options is None else options
        self.shared = Shared() if shared is None else shared

    @classmethod
    def of(cls, recipe: Recipe) -> "Algorithm[Any]":
        return cls(cast(Any, recipe.require_rl().options), Shared.of(recipe))

    def __reduce__(self) -> tuple:
        """Pickle the import path of the class instead of the class itself. Another process then imports the class by
        its path, as a recipe does."""
        path = f"{type(self).__module__}:{type(self).__qualname__}"
        return _again, (path, self.options.model_dump(), self.shared)

    # what the algorithm declares

    @property
    def records_steps(self) -> bool:
        """Return whether the sampler stores the stochastic denoising steps, so that the learner can replay them. If the
        result is true, the recipe must set `rl.noise`, and images must be drawn without guidance."""
        return False

    @property
    def old_schedule(self) -> OldPolicySchedule | None:
        """Return the schedule of the sampling weights. It decides how they follow the trained weights. None means that
        the trained weights themselves are used for sampling."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Return whether the loss contains a KL term. This term penalises the distance between the trained model and
        the base model."""
        return self.shared.kl_text > 0 or self.shared.kl_image > 0

    @property
    def clip_image(self) -> float:
        """Return the clip range of the importance ratio of a denoising step. The ratio check compares the
        log-probabilities of sampler and learner. It allows differences up to a fifth of this range."""
        return CLIP_IMAGE

    @property
    def levels_per_image(self) -> int:
        """Return how many noise levels the loss uses for each image. This number is used only if the algorithm trains
        without recorded denoising steps."""
        return 0

    @property
    def pairs_per_group(self) -> int | None:
        """Return the maximum number of preference pairs per group (the samples of one prompt). None means that the
        algorithm trains on single trajectories, not on pairs."""
        return None

    def forwards(self, precision: str) -> dict[str, int]:
        """Return the number of forward passes over each pack in one update. The result is a dict from purpose, for
        example "trained" or "reference", to number. `precision` is the precision of the passes, "fp32" or "bf16". Some
        algorithms need more passes in bf16."""
        return {"trained": 1} | ({"reference": 1} if self.needs_reference else {})

    def problems(self, recipe: Recipe) -> list[str]:
        """Return one error message for each wrong setting of the recipe. A setting is wrong if it contradicts another
        setting, or if it was changed and has no effect with this algorithm."""
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
        """Return notes that are printed before RL begins. Each note is about a setting that has no effect but is
        allowed."""
        noise = recipe.require_rl().noise
        if noise is None or noise.window != "all":
            return []
        if noise.window_size == type(noise).model_fields["window_size"].default:
            return []
        return [f"rl.noise.window_size {noise.window_size} has no effect with rl.noise.window all"]

    # called for a scored group

    def select(self, group: Group, give_credit: Callable[[], credit.Summary]) -> Selection:
        """Set the `advantage` of each segment (a text or an image) of a scored group. None means that the segment is
        not trained. Return a `Selection`, which says for example whether the group has anything to train on.
        `give_credit` is a function without arguments. It sets the advantages with the credit scheme of the recipe. A
        subclass need not call it."""
        summary = give_credit()
        return Selection(summary.has_spread, summary.empty)

    def why_empty(self, groups: str) -> str:
        """Return a sentence that says why some groups have nothing to train on. `groups` is the name of these groups in
        the sentence, for example "its group" or "the last 20 groups"."""
        return f"no segment of {groups} got an advantage"

    # called for an update

    def minibatches(
        self, rank: RankContext, groups: Sequence[Group], metrics: dict[str, float], parts: int
    ) -> Iterator[tuple[list[Pack], Any]]:
        """Split the scored groups of an update into at most `parts` minibatches. For each minibatch, yield a pair
        (packs, loss). One optimizer step is made with each pair. `packs` are the packs of this rank. A pack is the
        token sequence of one forward pass.

        Each pair is computed only after the optimizer step of the previous pair. If nothing is yielded, the update is
        skipped. The method may add numbers for the log to `metrics`.

        Each yielded `loss` is a function. Its arguments are the model's output for a pack, the index of the pack, and
        the denominators summed over all ranks. A denominator is a count, such as the number of trained tokens. A sum of
        losses is divided by this count. The function returns an object of the class `Loss`. `loss` itself also has a
        method `denominators()`, which returns the denominators of this rank alone.
        """
        raise NotImplementedError

    def why_skipped(self, updates: int, max_pack_tokens: int) -> str:
        """Return an error message which says that `updates` updates in a row were skipped. `max_pack_tokens` is the
        largest number of tokens in a pack. A subclass may use this number in its message."""
        return f"no update of the last {updates} had anything to train on"

    def material(self, group: Group, replay: Replay, limit: int) -> Material:
        """Return the amount of training material in a group (several samples of one prompt). For DPO this is the number
        of preference pairs. Material that is too long for a pack of `limit` tokens is counted separately. `replay`
        computes the lengths in tokens. An algorithm must define this method if `learns_offline` is true."""
        raise NotImplementedError


def _again(path: str, options: dict[str, Any], shared: Shared) -> Algorithm[Any]:
    made = import_named(path, {}, "rl.algorithm")
    return made(made.Settings.model_validate(options), shared)


def algorithm_of(recipe: Recipe) -> Algorithm[Any]:
    """Return the algorithm that the recipe names, with the settings of the recipe."""
    return algorithm_type(recipe.require_rl().algorithm).of(recipe)


def algorithm_type(name: str) -> type[Algorithm[Any]]:
    """Return the class that `rl.algorithm` names. Raises InputError if there is no such class."""
    return cast("type[Algorithm[Any]]", algorithm_class(name))

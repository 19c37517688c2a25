"""Reinforcement learning: groups, credit and what all algorithms share."""

from collections.abc import Mapping, MutableMapping
from math import prod
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from irg_rl.config.options import options_of
from irg_rl.config.sampling import GuidanceRecipe, NoiseRecipe
from irg_rl.config.training import LoraRecipe, LoraSection, OptimizerRecipe, Stage
from irg_rl.credit import scheme_named
from irg_rl.errors import InputError
from irg_rl.imports import import_named
from irg_rl.sections import Decay, PathText, Positive, Rate, Section, Seed, Weight

ALGORITHMS = {
    "grpo": "irg_rl.algorithms.grpo:GRPO",
    "nft": "irg_rl.algorithms.nft:NFT",
    "awm": "irg_rl.algorithms.awm:AWM",
    "dpo": "irg_rl.algorithms.dpo:DPO",
}
"""Short names of `rl.algorithm`."""
OPTIONS_OF = {"algorithm": "options", "credit": "credit_options"}
"""Settings of `rl` that name something, and those that hold its options."""
USUAL_CREDIT = "turn"


class Declared(Protocol):
    """What a recipe asks of an algorithm that was made from it; the rest: algorithms/base.py."""

    def problems(self, recipe: Any) -> list[str]: ...


class AlgorithmClass(Protocol):
    """What a recipe has to know of an algorithm before one is made."""

    Settings: type[Section]
    uses_credit: bool

    @classmethod
    def of(cls, recipe: Any) -> Declared: ...


def algorithm_class(name: str) -> AlgorithmClass:
    """InputError for a name that stands for nothing, or for something else."""
    found = import_named(name, ALGORITHMS, "rl.algorithm")
    if not (isinstance(found, type) and any(one.__module__ == "irg_rl.algorithms.base" for one in found.__mro__)):
        raise InputError(f"rl.algorithm {name!r} is no class derived from irg_rl.algorithms.base.Algorithm")
    return cast(AlgorithmClass, found)


class RLRecipe(Section):
    seed: Seed | None = None
    """Seed of RL: the order of its prompts and every random number of its samples. None: the recipe's. World, SFT and
    evaluation keep the recipe's, so that several seeds of RL share them (`irg-rl fork`)."""
    algorithm: str = "grpo"
    """grpo: trains the noisy denoising steps of images; nft, awm: train on drawn images, noised afresh; all three train
    texts with `text_loss`. dpo: trains texts and images by preference, where siblings part the way with the best last
    images against the one with the worst. Or your own as package.module:Class."""
    options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings that the algorithm alone has; see its class in irg_rl/algorithms/."""
    rollouts: PathText | None = Field(default=None, exclude_if=lambda folder: folder is None)
    """Folder of scored groups to learn from, as `irg-rl rollout` or a run's `dump_every` writes it, for algorithms that
    learn from samples of others (dpo); None: the run samples."""
    updates: Positive = 60
    groups: Positive = 8
    """Prompts per update."""
    group_size: Annotated[int, Field(ge=2)] = 8
    forks: dict[Positive, Annotated[int, Field(ge=2)]] = Field(default={}, exclude_if=lambda forks: not forks)
    """Turn -> ways in which every trajectory branches at its start: {1: 4} draws four reflections and refined images
    from each first image. Several turns multiply, and what they make of one trunk must divide `group_size`. Siblings
    share what precedes their fork, which is sampled, scored and learned from once. Empty or null: no forks."""
    prompts: PathText | None = None
    """jsonl of prompts with metadata; None: the world's training prompts."""
    credit: str | None = None
    """How the rewards of images become advantages: trajectory, turn, verifier_gae, improvement, umm, no_improve_clamp,
    or your own as package.module:SCHEME. None: turn, or nothing where the algorithm takes no credit (dpo)."""
    credit_options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings that the scheme has; see irg_rl/credit/."""
    text_loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    importance: Literal["token", "sequence"] = "token"
    """Ratio of new to old policy: one per token, or for all tokens of a text their geometric mean (GSPO, arXiv
    2507.18071, which needs a clip range of about 3e-4)."""
    clip_text: tuple[float, float] = (0.2, 0.28)
    """The ratio is clipped to [1 - first, 1 + second]; with text_loss cispo its weight to at most the second."""
    mismatch_cap: Rate = 2.0
    """engine.dtype bf16: largest weight that corrects a token for the sampler's log-probability being another than the
    learner's."""
    text_weight: Weight = 1.0
    image_weight: Weight = 1.0
    kl_text: Weight = 0.0
    kl_image: Weight = 0.0
    noise: NoiseRecipe | None = NoiseRecipe()
    """Stochastic denoising steps, which grpo trains; None: images are drawn without noise (not where their steps are
    trained)."""
    guidance: GuidanceRecipe | None = Field(default=None, exclude_if=lambda guidance: guidance is None)
    """Guidance of the images that are drawn for training (not where their steps are trained); texts are never
    guided."""
    points: Annotated[int, Field(ge=2)] | None = Field(default=None, exclude_if=lambda points: points is None)
    """Time points of the flow in RL; None: those of `sampling`."""
    optimizer: OptimizerRecipe = OptimizerRecipe(lr=5e-5, betas=(0.9, 0.95))
    lora: LoraSection = None
    """None: all weights are trained."""
    minibatches: Positive = 1
    """Optimizer steps per batch of groups; more than one makes the later ones off-policy."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """Weight versions a trained sample may be behind; 0 is synchronous and bit-reproducible on CPU."""
    context_grad: Literal["full", "detached"] = "full"
    max_pack_tokens: Positive = 8192
    ema_decay: Decay | None = None
    """Decay of the averaged weights that evaluation and `models/rl` use; None: the weights of the last update."""
    probe_every: Annotated[int, Field(ge=0)] = 0
    """Updates between gradient norms of the image loss alone (does it reach the understanding expert?); 0: never."""
    checkpoint_every: Positive = 20
    dump_every: int = Field(default=0, ge=0, exclude_if=lambda updates: not updates)
    """Updates between dumps of the trained groups into `rollouts/` of the run, for `irg-rl show` and, when it is 1,
    `irg-rl replay`; 0: none."""

    @model_validator(mode="before")
    @classmethod
    def credit_is_written_down(cls, data: Any) -> Any:
        """Also where it is the usual one."""
        if not isinstance(data, Mapping) or data.get("credit") is not None:
            return data
        try:
            uses_credit = algorithm_class(data.get("algorithm", cls.model_fields["algorithm"].default)).uses_credit
        except (InputError, TypeError, AttributeError):
            return data  # said by the validator of `algorithm`
        return {**data, "credit": USUAL_CREDIT if uses_credit else None}

    @field_validator("algorithm")
    @classmethod
    def algorithm_is_there(cls, name: str) -> str:
        algorithm_class(name)
        return name

    @field_validator("credit")
    @classmethod
    def scheme_is_there(cls, name: str | None) -> str | None:
        if name is not None:
            scheme_named(name)
        return name

    @field_validator("options", mode="before")
    @classmethod
    def options_are_the_algorithm_s(cls, given: Any, info: ValidationInfo) -> Section:
        known = info.data.get("algorithm")
        return Section() if known is None else options_of(algorithm_class(known).Settings, given, "rl.options")

    @field_validator("credit_options", mode="before")
    @classmethod
    def credit_options_are_the_scheme_s(cls, given: Any, info: ValidationInfo) -> Section:
        if "credit" not in info.data:  # it has an error of its own
            return Section()
        name = info.data["credit"]
        return options_of(Section if name is None else scheme_named(name).options, given, "rl.credit_options")

    @field_validator("forks", mode="before")
    @classmethod
    def null_is_no_forks(cls, forks: Any) -> Any:
        """An override cannot empty a mapping: it is merged into the one below."""
        return {} if forks is None else forks

    @property
    def leaves(self) -> int:
        """Trajectories that the forks make of one trunk."""
        return prod(self.forks.values())

    def rows(self, turn: int) -> int:
        """Siblings of a group that are apart in that turn, at most."""
        return self.group_size // prod(ways for at, ways in self.forks.items() if at > turn)


def adapters_of(trained: Stage | RLRecipe) -> LoraRecipe | None:
    """The adapters that a stage trains: those of the experts with a learning rate."""
    if trained.lora is None:
        return None
    rates = trained.optimizer.rates
    experts = tuple(expert for expert in trained.lora.experts if rates[expert])
    return trained.lora.model_copy(update={"experts": experts})


def drop_options_of_others(beneath: Any, above: Any) -> None:
    """Before `above` goes on top of `beneath` (settings of `rl`, either may be something else): naming another
    algorithm or scheme leaves the options behind that were given to the one beneath."""
    if not isinstance(beneath, MutableMapping) or not isinstance(above, Mapping):
        return
    usual = {"algorithm": RLRecipe.model_fields["algorithm"].default, "credit": USUAL_CREDIT}
    for name, options in OPTIONS_OF.items():
        if name in above and options in beneath and above[name] != (beneath.get(name) or usual[name]):
            beneath.pop(options)

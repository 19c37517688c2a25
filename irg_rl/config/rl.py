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
"""Setting of `rl` that names an algorithm or scheme -> setting that holds its options."""
USUAL_CREDIT = "turn"


class Declared(Protocol):
    """What the recipe's validation uses of an algorithm object. algorithms/base.py has the rest."""

    def problems(self, recipe: Any) -> list[str]: ...


class AlgorithmClass(Protocol):
    """What the recipe's validation uses of an algorithm's class."""

    Settings: type[Section]
    uses_credit: bool

    @classmethod
    def of(cls, recipe: Any) -> Declared: ...


def algorithm_class(name: str) -> AlgorithmClass:
    """The class of an algorithm. InputError if the name is unknown or is not an algorithm."""
    found = import_named(name, ALGORITHMS, "rl.algorithm")
    if not (isinstance(found, type) and any(one.__module__ == "irg_rl.algorithms.base" for one in found.__mro__)):
        raise InputError(f"rl.algorithm {name!r} is not a class derived from irg_rl.algorithms.base.Algorithm")
    return cast(AlgorithmClass, found)


class RLRecipe(Section):
    seed: Seed | None = None
    """Seed of RL: order of the prompts, and all random numbers of the samples. null: `seed` of the recipe. The task,
    SFT and evaluation always use `seed` of the recipe, so that runs with several RL seeds share them (`irg-rl
    fork`)."""
    algorithm: str = "grpo"
    """grpo trains the stochastic denoising steps of images. nft and awm add fresh noise to the drawn images and train
    on that. These three train texts with `text_loss`. dpo trains texts and images on preference pairs: at every fork it
    prefers the branch with the best last images to the branch with the worst. Your own: package.module:Class."""
    options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings of this algorithm only. See the `Settings` of its class in irg_rl/algorithms/."""
    rollouts: PathText | None = Field(default=None, exclude_if=lambda folder: folder is None)
    """Folder of scored groups to learn from (dpo only). `irg-rl rollout` and `dump_every` write such folders. null: the
    run samples its own groups."""
    updates: Positive = 60
    groups: Positive = 8
    """Prompts per update."""
    group_size: Annotated[int, Field(ge=2)] = 8
    forks: dict[Positive, Annotated[int, Field(ge=2)]] = Field(default={}, exclude_if=lambda forks: not forks)
    """Turn -> number of branches into which every trajectory splits at the start of that turn. {1: 4} samples four
    reflections and refined images from each first image. The numbers of several turns multiply, and `group_size` must
    be a multiple of the product. Branches share all that is before their fork. It is sampled, scored and trained once.
    Empty or null: no forks."""
    prompts: PathText | None = None
    """jsonl file of prompts with metadata. null: the training prompts of the task."""
    credit: str | None = None
    """How the rewards of images become advantages: trajectory, turn, verifier_gae, improvement, umm, no_improve_clamp,
    or your own as package.module:SCHEME. null: turn. An algorithm without advantages (dpo) uses no scheme."""
    credit_options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings of this credit scheme. See irg_rl/credit/."""
    text_loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    importance: Literal["token", "sequence"] = "token"
    """Ratio of the new to the old policy. token: one ratio per token. sequence: one ratio per text, the geometric mean
    over its tokens (GSPO, arXiv 2507.18071). GSPO needs a clip range of about 3e-4."""
    clip_text: tuple[float, float] = (0.2, 0.28)
    """The ratio is clipped to [1 - first, 1 + second]. text_loss cispo uses only the second number: the weight of a
    token is at most that."""
    mismatch_cap: Rate = 2.0
    """Only with engine.dtype bf16. There the sampler and the learner compute slightly different log-probabilities, and
    a weight per token corrects for that. This is the largest weight."""
    text_weight: Weight = 1.0
    image_weight: Weight = 1.0
    kl_text: Weight = 0.0
    kl_image: Weight = 0.0
    noise: NoiseRecipe | None = NoiseRecipe()
    """Stochastic denoising steps, which grpo trains. null: images are drawn without noise. grpo cannot use null."""
    guidance: GuidanceRecipe | None = Field(default=None, exclude_if=lambda guidance: guidance is None)
    """Guidance of the images that are drawn for training. grpo cannot train guided steps. Texts are never guided."""
    points: Annotated[int, Field(ge=2)] | None = Field(default=None, exclude_if=lambda points: points is None)
    """Time points of the flow in RL. null takes the number of `sampling`."""
    optimizer: OptimizerRecipe = OptimizerRecipe(lr=5e-5, betas=(0.9, 0.95))
    lora: LoraSection = None
    """null: all weights are trained."""
    minibatches: Positive = 1
    """Optimizer steps per batch of groups. With more than one, the later steps are off-policy."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """How many weight versions old a sample may be when it is trained. 0: sampling and training alternate, and a run on
    the CPU can be repeated bit for bit."""
    context_grad: Literal["full", "detached"] = "full"
    max_pack_tokens: Positive = 8192
    ema_decay: Decay | None = None
    """Decay of the averaged weights, which evaluation and `models/rl` then use. null: the weights of the last
    update."""
    probe_every: Annotated[int, Field(ge=0)] = 0
    """Updates between measurements of the gradient norm of the image loss alone. It shows whether this loss reaches the
    understanding expert. 0: never."""
    checkpoint_every: Positive = 20
    dump_every: int = Field(default=0, ge=0, exclude_if=lambda updates: not updates)
    """Updates between dumps of the trained groups into `rollouts/` of the run. `irg-rl show` reads them. `irg-rl
    replay` needs 1. 0: no dumps."""

    @model_validator(mode="before")
    @classmethod
    def credit_is_written_down(cls, data: Any) -> Any:
        """Fill in the default scheme, so that recipe.yaml names it."""
        if not isinstance(data, Mapping) or data.get("credit") is not None:
            return data
        try:
            uses_credit = algorithm_class(data.get("algorithm", cls.model_fields["algorithm"].default)).uses_credit
        except (InputError, TypeError, AttributeError):
            return data  # the validator of `algorithm` reports this
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
        """An override is merged into the recipe's mapping and cannot empty it. So null stands for no forks."""
        return {} if forks is None else forks

    @property
    def leaves(self) -> int:
        """Number of trajectories that one trunk splits into."""
        return prod(self.forks.values())

    def rows(self, turn: int) -> int:
        """Largest number of siblings of a group that differ in that turn."""
        return self.group_size // prod(ways for at, ways in self.forks.items() if at > turn)


def adapters_of(trained: Stage | RLRecipe) -> LoraRecipe | None:
    """The adapters that a stage trains. Experts with learning rate 0 have none."""
    if trained.lora is None:
        return None
    rates = trained.optimizer.rates
    experts = tuple(expert for expert in trained.lora.experts if rates[expert])
    return trained.lora.model_copy(update={"experts": experts})


def drop_options_of_others(beneath: Any, above: Any) -> None:
    """Remove options from `beneath` that would no longer fit once `above` is merged over it.

    Both are settings of `rl`, or anything else, which is ignored. If `above` names another algorithm or credit scheme,
    then `beneath` loses the options of its own one."""
    if not isinstance(beneath, MutableMapping) or not isinstance(above, Mapping):
        return
    usual = {"algorithm": RLRecipe.model_fields["algorithm"].default, "credit": USUAL_CREDIT}
    for name, options in OPTIONS_OF.items():
        if name in above and options in beneath and above[name] != (beneath.get(name) or usual[name]):
            beneath.pop(options)

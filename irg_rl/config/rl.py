"""Settings of reinforcement learning: the groups of samples, the credit scheme (how rewards become advantages), and the
settings that all algorithms have in common."""

from collections.abc import Mapping, MutableMapping
from math import prod
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from irg_rl.config.alarms import AlarmsRecipe
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
"""Short name for `rl.algorithm` -> import path of the algorithm's class."""
OPTIONS_OF = {"algorithm": "options", "credit": "credit_options"}
"""Setting of `rl` that names an algorithm or a credit scheme -> setting that holds the options of this algorithm or
scheme."""
USUAL_CREDIT = "turn"


class Declared(Protocol):
    """The methods of an algorithm object that the validation of a recipe uses. The full interface is in
    algorithms/base.py."""

    def problems(self, recipe: Any) -> list[str]: ...


class AlgorithmClass(Protocol):
    """The attributes of an algorithm's class that the validation of a recipe uses."""

    Settings: type[Section]
    uses_credit: bool

    @classmethod
    def of(cls, recipe: Any) -> Declared: ...


def algorithm_class(name: str) -> AlgorithmClass:
    """Return the class of an algorithm. Raises InputError if nothing has this name, or if the named object is not an
    algorithm (for example a function)."""
    found = import_named(name, ALGORITHMS, "rl.algorithm")
    if not (isinstance(found, type) and any(one.__module__ == "irg_rl.algorithms.base" for one in found.__mro__)):
        raise InputError(f"rl.algorithm {name!r} is not a class derived from irg_rl.algorithms.base.Algorithm")
    return cast(AlgorithmClass, found)


class RLRecipe(Section):
    seed: Seed | None = None
    """Seed of RL. It determines the order of the prompts and all random numbers of the samples. null: `seed` of the
    recipe. The task, SFT and evaluation always use `seed` of the recipe. So runs with different RL seeds can share the
    task, the SFT model and its evaluation (`irg-rl fork`)."""
    algorithm: str = "grpo"
    """grpo trains the stochastic denoising steps of images. nft and awm add new noise to the drawn images and train on
    the noisy images. grpo, nft and awm train texts with `text_loss`. dpo trains texts and images on preference pairs:
    at every fork, it prefers the branch with the best last images to the branch with the worst last images. Your own
    algorithm: package.module:Class."""
    options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings that only the chosen `algorithm` has. The class of the algorithm (in irg_rl/algorithms/) lists them in
    its inner class `Settings`."""
    rollouts: PathText | None = Field(default=None, exclude_if=lambda folder: folder is None)
    """Folder with scored groups of trajectories to learn from (dpo only). `irg-rl rollout` and the setting `dump_every`
    write such folders. null: the run samples its own groups."""
    updates: Positive = 60
    groups: Positive = 8
    """Number of prompts per update. Each prompt gives one group of trajectories."""
    group_size: Annotated[int, Field(ge=2)] = 8
    groups_per_batch: Positive = Field(default=1, exclude_if=lambda groups: groups == 1)
    """Largest number of groups that a rollout actor samples together, as one batch. A larger batch is faster as long as
    the memory lasts and every actor gets one: with more than `groups` / `engine.rollout_actors`, some actors are idle.
    """
    forks: dict[Positive, Annotated[int, Field(ge=2)]] = Field(default={}, exclude_if=lambda forks: not forks)
    """Turn -> number of branches into which every trajectory splits at the start of that turn. For example, {1: 4}
    samples four reflections and refined images from each first image. If several turns have forks, their numbers are
    multiplied, and `group_size` must be a multiple of the product. Branches share everything before their fork. The
    shared part is sampled, scored and trained only once. Empty or null: no forks."""
    prompts: PathText | None = None
    """A jsonl file of prompts with metadata. null: the training prompts of the task."""
    prompt_mix: dict[str, Weight] = Field(default={}, exclude_if=lambda mix: not mix)
    """Kind of prompt -> weight. Prompts with a larger weight are used more often. A kind is a tag (the field `tag` of
    the metadata), or a tag with a number of constraints (the field `constraints`), such as scene/3. Other prompts have
    the weight 1."""
    credit: str | None = None
    """The credit scheme. It turns the rewards of images into advantages. Choices: trajectory, turn, verifier_gae,
    improvement, umm, no_improve_clamp, factorised, or your own as package.module:SCHEME. null: the scheme `turn`. An
    algorithm without advantages (dpo) uses no scheme."""
    credit_options: SerializeAsAny[Section] = Field(default=Section(), validate_default=True)
    """Settings that only the chosen `credit` scheme has. They are explained in irg_rl/credit/."""
    text_loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    importance: Literal["token", "sequence"] = "token"
    """How the ratio of the new to the old policy is computed for texts. token: one ratio per token. sequence: one ratio
    per text, which is the geometric mean over its tokens (GSPO, arXiv 2507.18071). GSPO needs a clip range of about
    3e-4."""
    clip_text: tuple[float, float] = (0.2, 0.28)
    """Clip range for texts. The ratio of the new to the old policy is clipped to [1 - first number, 1 + second number].
    text_loss cispo uses only the second number, as the largest weight of a token."""
    mismatch_cap: Rate = 2.0
    """Only with engine.dtype bf16. In bf16, the sampler and the learner compute slightly different log-probabilities. A
    weight per token corrects for this mismatch. `mismatch_cap` is the largest such weight."""
    text_weight: Weight = 1.0
    image_weight: Weight = 1.0
    kl_text: Weight = 0.0
    """Weight of the distance to the base model, over all sampled texts."""
    kl_image: Weight = 0.0
    """Weight of the distance to the base model, over all drawn images. It also holds images that get no advantage, such
    as the first image of a group with `forks`, which has no sibling."""
    noise: NoiseRecipe | None = NoiseRecipe()
    """Which denoising steps are stochastic. grpo trains these steps. null: images are drawn without noise. With grpo,
    null is not allowed."""
    guidance: GuidanceRecipe | None = Field(default=None, exclude_if=lambda guidance: guidance is None)
    """Classifier-free guidance of the images that are drawn for training. null: no guidance. grpo cannot train guided
    steps. Texts are never guided."""
    points: Annotated[int, Field(ge=2)] | None = Field(default=None, exclude_if=lambda points: points is None)
    """Number of time points of the flow in RL. null: the number in `sampling`."""
    optimizer: OptimizerRecipe = OptimizerRecipe(lr=5e-5, betas=(0.9, 0.95))
    lora: LoraSection = None
    """LoRA adapters to train. null: all weights are trained."""
    minibatches: Positive = 1
    """Number of optimizer steps per batch of groups. If there is more than one, the later steps are off-policy."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """How many weight versions old a sample may be when it is trained. With 0, every sample comes from the newest
    weights: the run samples, then trains, then samples again. On the CPU, such a run can be repeated bit for bit."""
    context_grad: Literal["full", "detached"] = "full"
    max_pack_tokens: Positive = 8192
    ema_decay: Decay | None = None
    """Decay of the averaged weights (EMA). Evaluation and `models/rl` then use the averaged weights. null: they use the
    weights of the last update."""
    probe_every: Annotated[int, Field(ge=0)] = 0
    """Number of updates between two measurements of the gradient norm of the image loss alone. The measurement shows
    whether this loss reaches the understanding expert. 0: it is never measured."""
    checkpoint_every: Positive = 20
    dump_every: int = Field(default=0, ge=0, exclude_if=lambda updates: not updates)
    """Number of updates between two dumps. A dump writes the trained groups into `rollouts/` of the run, where `irg-rl
    show` can read them. `irg-rl replay` needs the value 1. 0: no dumps."""
    look_every: Annotated[int, Field(ge=0)] = 10
    """Number of updates between two looks. A look writes the texts, images, scores and advantages of some trained
    groups into `looks/` of the run, for `irg-rl view` and `irg-rl show`. It also logs some of them to wandb. A look has
    nothing that training needs, so it is small. Looks do not change the run. 0: no looks. Without effect with
    `rollouts`."""
    look_mb: Positive = 256
    """Largest size of all looks of a run together, in MiB. Each look gets an equal part, and has only the groups that
    fit into it."""

    alarms: AlarmsRecipe = Field(default=AlarmsRecipe(), exclude_if=lambda alarms: alarms == AlarmsRecipe())
    """When and how RL tells that something goes wrong which the reward does not show (docs/rewards.md). Alarms draw no
    random numbers and change no weights."""

    @model_validator(mode="before")
    @classmethod
    def credit_is_written_down(cls, data: Any) -> Any:
        """Fill in the default credit scheme if `credit` is not given, so that the saved recipe.yaml names the
        scheme."""
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
        if "credit" not in info.data:  # `credit` itself is invalid, which is reported
            return Section()
        name = info.data["credit"]
        return options_of(Section if name is None else scheme_named(name).options, given, "rl.credit_options")

    @field_validator("forks", mode="before")
    @classmethod
    def null_is_no_forks(cls, forks: Any) -> Any:
        """Replace null by an empty mapping, which means no forks. At a fork, several continuations are sampled from the
        same beginning of a trajectory. To remove the forks of a recipe, an override must be null. An empty mapping
        would change nothing, because it would be merged into the mapping of the recipe."""
        return {} if forks is None else forks

    @property
    def leaves(self) -> int:
        """Number of trajectories that are sampled from one beginning. At each fork, every trajectory splits into
        several branches. The result is the product of the numbers of branches in `forks`. Without forks it is 1."""
        return prod(self.forks.values())

    @property
    def largest_batch(self) -> int:
        """Number of groups in the largest batch that a rollout actor samples."""
        return min(self.groups_per_batch, self.groups)

    def rows(self, turn: int) -> int:
        """Return how many different trajectories a group has at most in turn `turn`. At a fork, trajectories with the
        same beginning separate. Trajectories that separate only after turn `turn` are still equal, so they count as
        one."""
        return self.group_size // prod(ways for at, ways in self.forks.items() if at > turn)


def adapters_of(trained: Stage | RLRecipe) -> LoraRecipe | None:
    """Return the settings of the LoRA adapters that an SFT stage or RL trains. The model has two experts, for
    understanding and for generation. An expert with learning rate 0 has no adapters. Returns None if the stage has no
    LoRA settings."""
    if trained.lora is None:
        return None
    rates = trained.optimizer.rates
    experts = tuple(expert for expert in trained.lora.experts if rates[expert])
    return trained.lora.model_copy(update={"experts": experts})


def drop_options_of_others(beneath: Any, above: Any) -> None:
    """Prepare settings of the section `rl` for a change: the settings `above` will be merged over the settings
    `beneath`. If `above` names another algorithm or credit scheme, the options of the old one are removed from
    `beneath`. If one of the arguments is not a mapping, nothing is done.
    """
    if not isinstance(beneath, MutableMapping) or not isinstance(above, Mapping):
        return
    usual = {"algorithm": RLRecipe.model_fields["algorithm"].default, "credit": USUAL_CREDIT}
    for name, options in OPTIONS_OF.items():
        if name in above and options in beneath and above[name] != (beneath.get(name) or usual[name]):
            beneath.pop(options)

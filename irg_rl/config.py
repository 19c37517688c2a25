"""The recipe: every setting of a run, once, typed and documented.

A recipe is a YAML file; `key.sub=value` overrides on the command line go on top. Unknown or mistyped settings are
errors that name the setting and the nearest known one; all are reported at once, before anything starts (invariant 9).
The resolved recipe has a digest that every checkpoint, metric file and report carries.
"""

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from yaml import YAMLError

from irg_rl.model.config import ModelConfig
from irg_rl.presets import PRESETS, preset_of, presets_first

SHORT_NAMES = {"turns": "sampling.turns", "prompts": "evaluation.prompts"}
"""Overrides so common that they have a short name."""
SCORER_KINDS = ("verifier", "clip", "hps", "judge")
OWN_ROWS = "own"
"""Folder of the rows made from the model's own images, among those of `sft.data`."""
OWN_MODES = ("improving_full_learning", "improving_thinking_generation_learning")
"""Learning modes of these rows."""

STAGES = (
    "world", "vae", "scorers", "pretrain", "sft1", "own_images", "sft2", "evaluate_sft", "rl", "evaluate_rl", "report",
    "sft_continued", "evaluate_sft_continued",
)  # fmt: skip
"""What a run goes through, in order, and the two that `irg-rl baseline` adds: the keys of `budget_minutes`."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WorldRecipe(Section):
    """The embedded shapes world: prompts and rows that a run makes for itself."""

    sft_rows: dict[str, int] = {
        "base_reading": 8000,
        "base_editing": 8000,
        "initial_thinking_understanding_learning": 1500,
        "initial_thinking_generation_learning": 1500,
        "initial_full_learning": 12000,
        "improving_thinking_understanding_learning": 2500,
        "improving_thinking_generation_learning": 6000,
        "improving_full_learning": 12000,
    }
    """Rows made per learning mode before stage 1."""
    deep_share: Share = 0.0
    """Share of improving_full rows that go on after a refined image; for `sampling.history: full`."""
    overlooked: dict[Literal["color", "shape", "extra", "missing", "relation"], Share] = Field(
        {}, exclude_if=lambda kinds: not kinds
    )
    """Kind of defect -> share of those that the teacher of the rows passes over, as one that looks less well than it
    should. No row shows how to mend what it passes over."""
    own_images: int = Field(3000, ge=0)
    """First images that the model draws between the stages to learn from its own failures; 0 leaves the step out."""
    own_image_steps: Positive = 12
    """Time points of the sampler that draws them."""
    train_prompts: Positive = 6000
    validation_prompts: Positive = 128
    test_prompts: Positive = 400
    prompt_mix: dict[str, float] | None = None
    """Share of each tag among the prompts; None is the world's own mix."""


class VAETraining(Section):
    steps: Positive = 1500
    batch_size: Positive = 64
    lr: Rate = 2e-3
    kl_weight: float = Field(1e-5, ge=0)
    min_checker_agreement: Share = 0.99
    """Share of held-out reconstructions that the checker must read as it reads the original; less stops the run."""


class DataSource(Section):
    """One learning mode in a stage's mixture."""

    folder: str
    """Folder of parquet files in the IRG schema, relative to `sft.data`."""
    weight: float = Field(1.0, ge=0)
    mandatory: bool = False
    """Every pack begins with one row of each mandatory source, whatever its weight."""


class Dropout(Section):
    """Condition dropout. `branch` drops exactly what the guidance branches leave out, with positions as at inference;
    `irg` is the original: each item on its own, rope gap where an image was."""

    mode: Literal["branch", "irg"] = "branch"
    image: Share = 0.05
    """branch, refinements: VAE and ViT of all condition images together."""
    last_text: Share = 0.05
    """branch, refinements: the reflection right before the target image."""
    all_text: Share = 0.05
    """branch, first images: everything but a system text."""
    irg_text: Share = 0.0
    """irg: a text. It drops texts with loss too, as the original does."""
    irg_vit: Share = 0.0
    """irg: the ViT tokens of a condition image."""
    irg_vae: Share = 0.3
    """irg: the clean latents of a condition image."""

    @model_validator(mode="after")
    def shares_leave_something(self):
        if self.image + self.last_text > 1:
            raise ValueError(f"image {self.image} and last_text {self.last_text} are shares of one draw: at most 1")
        return self


class OptimizerRecipe(Section):
    lr: float = Field(1e-3, ge=0)
    """Learning rate of the understanding expert, and of the parts without one of their own. 0 freezes a part."""
    gen_lr: float | None = Field(None, ge=0)
    """Learning rate of the generation expert; None: `lr`."""
    vision_lr: float | None = Field(None, ge=0)
    """Learning rate of vision tower and connector; None: `lr`."""
    muon_lr: float | None = Field(None, gt=0)
    """Learning rate of Muon for the matrices of all layers, AdamW keeps the rest; None: AdamW alone. For training from
    scratch; needs ZeRO stage 0."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: Rate = 1.0
    warmup: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_share: Share = 0.0
    """cosine: share of the learning rate left at the last step."""

    @property
    def rates(self) -> dict[str, float]:
        """Learning rate of each part."""
        return {
            "und": self.lr,
            "gen": self.lr if self.gen_lr is None else self.gen_lr,
            "vision": self.lr if self.vision_lr is None else self.vision_lr,
        }

    @model_validator(mode="after")
    def something_is_trained(self):
        if not any(self.rates.values()):
            raise ValueError("lr, gen_lr and vision_lr are all 0, so nothing is trained: set one of them above 0")
        return self


class LoraRecipe(Section):
    """Adapters on the experts' matrices, trained while the base is frozen, vision included (docs/recipes.md)."""

    rank: Positive = 64
    alpha: Positive = 128
    """What an adapter adds is multiplied by alpha / rank."""
    experts: tuple[Literal["und", "gen"], ...] = ("und", "gen")
    targets: tuple[Projection, ...] = typing.get_args(Projection)
    """Matrices that get an adapter, in every layer of the experts."""

    @field_validator("experts", "targets")
    @classmethod
    def something_is_named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("an empty list trains nothing: name one at least, or leave the setting out for all")
        return names

    def problems(self, optimizer: OptimizerRecipe) -> list[str]:
        """Where the two contradict each other."""
        problems = []
        if optimizer.muon_lr:
            problems.append("optimizer.muon_lr trains whole matrices, which lora freezes: leave one of the two out")
        if optimizer.vision_lr:
            problems.append("optimizer.vision_lr has no effect with lora, which freezes vision: leave it out")
        if optimizer.gen_lr and "gen" not in self.experts:
            problems.append("optimizer.gen_lr has no effect without gen in lora.experts: add gen or leave gen_lr out")
        if not any(optimizer.rates[expert] for expert in self.experts):
            problems.append(
                f"lora.experts {list(self.experts)} have learning rate 0, so nothing is trained: raise optimizer.lr or "
                "gen_lr, or name another expert"
            )
        return problems


LoraSection = Annotated[LoraRecipe | None, Field(exclude_if=lambda lora: lora is None)]
"""Where it is absent it is not written down either, and not part of the digest."""


class Stage(Section):
    """One IRGL stage."""

    steps: Positive
    """Upper bound; the stage ends earlier at its validation plateau."""
    sources: list[DataSource]
    tokens_per_pack: Positive = 3600
    """A pack is full when the next row would exceed it. Mandatory rows alone, and the reflections that the image
    branch of the dropout repeats, may go beyond."""
    packs_per_step: Positive = 1
    """Packs of one optimizer step over all learner ranks."""
    max_row_tokens: Positive = 2048
    """Longer rows are rejected and listed in rejected.jsonl."""
    ce_weight: float = Field(1.0, ge=0)
    mse_weight: float = Field(1.0, ge=0)
    noise_blocks: Positive = 1
    """Noise levels trained per target image in one pass: each is a noise block of its own after the shared context."""
    first_noise_blocks: Annotated[int, Field(ge=1)] | None = Field(None, exclude_if=lambda blocks: blocks is None)
    """Those of a first image, which has its layout to find and a short context to share; None: `noise_blocks`."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    lora: LoraSection = None
    """None: all weights are trained."""
    patience: Positive = 6
    """Validations without improvement that end the stage."""

    @property
    def noise_blocks_by_kind(self) -> tuple[int, int]:
        """Of a first image and of one that has images before it."""
        return self.first_noise_blocks or self.noise_blocks, self.noise_blocks

    @model_validator(mode="after")
    def something_is_drawn(self):
        if not any(source.weight > 0 for source in self.sources):
            raise ValueError("sources needs at least one entry with a weight above 0")
        return self


class SFTRecipe(Section):
    data: str | None = None
    """Folder with one folder of parquet per mode; None: the run makes its own from the shapes world."""
    base: Stage | None = None
    """The base model's own training, before IRGL: for a model from scratch."""
    stage1: Stage | None = None
    """All six modes: thinking and reflection."""
    stage2: Stage | None = None
    """Whole trajectories; goes on from stage 1, or from `init_from` where there is none."""
    dropout: Dropout = Dropout()
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """ZeRO stage of the SFT engine; None: `engine.zero_stage`."""
    ema_decay: Decay = 0.995
    validate_every: Positive = 200
    checkpoint_every: Positive = 500
    validation_rows: Positive = 256
    """Rows kept for validation, an equal part from each source's first row group."""

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that the recipe has, in order."""
        all_three = {"base": self.base, "stage1": self.stage1, "stage2": self.stage2}
        return {name: stage for name, stage in all_three.items() if stage is not None}

    @model_validator(mode="after")
    def has_a_stage(self):
        if not self.stages:
            raise ValueError("sft needs base, stage1 or stage2; leave the section out to train no SFT")
        return self


class SamplingRecipe(Section):
    """How a trajectory is sampled, in training and, but for temperature and guidance, in evaluation. No top-p or top-k:
    sampled is what is trained."""

    turns: Annotated[int, Field(ge=1, le=16)] = 3
    """Most images per trajectory; a reflection that wants no change ends it earlier."""
    history: Literal["full", "last"] = "last"
    """What a refinement sees: all earlier turns, or prompt, first think text and the last image."""
    temperature: Rate = 1.0
    max_text_tokens: Positive = 64
    points: Annotated[int, Field(ge=2)] = 12
    """Time points of the flow including t = 0: `points - 1` model calls per image."""
    shift: Rate = 1.0
    image_size: tuple[int, int] = (24, 24)
    """Height and width of drawn images in pixels."""
    system_prompt: str = ""


class GuidanceRecipe(Section):
    """Classifier-free guidance, for evaluation and `generate` only; RL samples and replays without it."""

    text_scale: float = Field(1.0, ge=1)
    """1 is off."""
    image_scale: float = Field(1.0, ge=1)
    """1 is off; has no effect without text guidance."""
    interval: tuple[float, float] = (0.0, 1.0)
    first_interval: tuple[float, float] = (0.4, 1.0)
    renorm: Literal["global", "channel", "text_channel"] = "text_channel"
    first_renorm: Literal["global", "channel", "text_channel"] = "global"
    renorm_min: Share = 0.0

    @property
    def is_on(self) -> bool:
        return self.text_scale > 1 or self.image_scale > 1


class NoiseRecipe(Section):
    """Where and how much the flow is sampled stochastically in RL."""

    kind: Literal["flow_sde", "dance_sde", "cps"] = "flow_sde"
    noise_level: Rate = 0.7
    window: Literal["all", "first", "random", "scattered", "progressive"] = "random"
    window_size: Positive = 3
    window_range: tuple[int, int] = (0, 6)
    """Steps among which the window lies: [first, last)."""
    shared_start: bool = Field(False, exclude_if=lambda shared: not shared)
    """RL: the images that a group draws in a turn start from one noise (DanceGRPO, arXiv 2505.07818), so that siblings
    differ by the noise of trained steps, and by what they were asked to draw, alone."""


class ScorerRecipe(Section):
    name: str
    kind: str
    """verifier, clip, hps, judge, or one's own as package.module:Class."""
    weight: float = 1.0
    held_out: bool = False
    """Never part of the reward, always logged."""
    path: str | None = None
    """clip, hps: folder or checkpoint of a released model; None: trained on the spot in the shapes world."""
    base_url: str | None = None
    """judge: an OpenAI-compatible endpoint; None: the embedded judge on 127.0.0.1."""
    model: str = "judge"
    api_key_env: str | None = None
    """judge: name of the environment variable that holds the key."""
    timeout_s: Rate = 30.0
    concurrency: Positive = 8
    options: dict[str, Any] = {}
    """Further arguments of the scorer's constructor, such as `model: ViT-H-14` for a checkpoint file; they go first."""

    @model_validator(mode="after")
    def settings_are_of_the_kind(self):
        foreign = set() if self.kind == "judge" else {"base_url", "model", "api_key_env", "timeout_s", "concurrency"}
        foreign |= set() if self.kind in ("clip", "hps") else {"path"}
        fields = type(self).model_fields
        given = sorted(name for name in foreign if vars(self)[name] != fields[name].default)
        if given:
            raise ValueError(
                f"{', '.join(given)}: not a setting of scorers of kind {self.kind!r}; what their constructor takes "
                "stands in `options`"
            )
        return self

    @field_validator("kind")
    @classmethod
    def kind_is_known(cls, kind: str) -> str:
        module, colon, name = kind.partition(":")
        if kind not in SCORER_KINDS and not (colon and module and name.isidentifier()):
            raise ValueError(f"{kind!r}: choose {', '.join(SCORER_KINDS)}, or your own as package.module:Class")
        return kind


class RewardRecipe(Section):
    scorers: list[ScorerRecipe] = []
    combine: Literal["sum", "zscore_sum"] = "sum"
    max_failure_share: Share = 0.2
    """Share of failed scores over a window of updates above which the run stops."""
    training_steps: Positive = 300
    """Steps for each of the small CLIP and HPS models trained on the spot."""

    @model_validator(mode="after")
    def names_are_unique(self):
        names = [s.name for s in self.scorers]
        if len(names) != len(set(names)):
            raise ValueError(f"scorer names must differ, found {names}")
        if self.scorers and all(s.held_out for s in self.scorers):
            raise ValueError("every scorer is held out: there is no reward; set held_out: false on one of them")
        return self


class RLRecipe(Section):
    seed: Seed | None = None
    """Seed of RL: the order of its prompts and every random number of its samples. None: the recipe's. World, SFT and
    evaluation keep the recipe's, so that several seeds of RL share them (`irg-rl fork`)."""
    updates: Positive = 60
    groups: Positive = 8
    """Prompts per update."""
    group_size: Annotated[int, Field(ge=2)] = 8
    prompts: str | None = None
    """jsonl of prompts with metadata; None: the world's training prompts."""
    credit: Literal["trajectory", "turn", "verifier_gae", "improvement", "umm", "no_improve_clamp"] = "turn"
    gamma: Share = 1.0
    gae_lambda: Share = 1.0
    """credit verifier_gae: lambda of its returns; unbiased at 1 only."""
    edit_price: float = Field(0.0, ge=0)
    """credit verifier_gae: taken from the reward for every image after the first."""
    std_floor: float = Field(0.05, ge=0)
    advantage_clip: Rate = 5.0
    malformed_penalty: float = Field(1.0, ge=0)
    """Subtracted from the advantage of a text that never ended."""
    text_loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    clip_text: tuple[float, float] = (0.2, 0.28)
    clip_image: Rate = 1e-3
    ratio_norm: bool = False
    text_weight: float = Field(1.0, ge=0)
    image_weight: float = Field(1.0, ge=0)
    kl_text: float = Field(0.0, ge=0)
    kl_image: float = Field(0.0, ge=0)
    noise: NoiseRecipe = NoiseRecipe()
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
    probe_every: int = Field(0, ge=0)
    """Updates between gradient norms of the image loss alone (does it reach the understanding expert?); 0: never."""
    checkpoint_every: Positive = 20
    dump_every: int = Field(0, ge=0, exclude_if=lambda updates: not updates)
    """Updates between dumps of the trained groups into `rollouts/` of the run, for `irg-rl show` and, when it is 1,
    `irg-rl replay`; 0: none."""


class EngineRecipe(Section):
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    learner_ranks: Positive = 1
    rollout_actors: Positive = 2
    threads: Positive = 2
    """Torch threads for a lone process; actors that run side by side share them."""
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = Field(False, exclude_if=lambda on: not on)
    """Run every layer again in the backward instead of keeping what it made: about a third more time, and memory for
    one layer in place of all."""
    deadline_s: Rate = 300.0
    """Longest wait for any answer of an actor."""
    keep_checkpoints: Positive = 2


class EvaluationRecipe(Section):
    prompts: Positive = 300
    turns: Annotated[int, Field(ge=2)] = 4
    batch_size: Positive = 64
    seed: Seed = 1234
    strips: Positive = 12
    """Prompts shown as picture strips in the report."""
    preset: str | None = None
    """How BAGEL or IRG sample, by name (presets.py): values of the five settings below. Those that stand beside it in
    the file count more; as an override it replaces what the file says of the five."""
    temperature: float = Field(0.0, ge=0)
    """Of texts in evaluation and `generate`; 0 takes the most likely token, as BAGEL does."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Time points of the flow; None: those of `sampling`."""
    shift: Rate | None = None
    """Of the time points; None: that of `sampling`."""
    guidance: GuidanceRecipe = GuidanceRecipe()
    noise: NoiseRecipe | None = Field(None, exclude_if=lambda noise: noise is None)
    """Which denoising steps are stochastic, in evaluation and `generate`; None: none, as in BAGEL. Fresh noise mends
    what earlier steps got wrong, for which it wants more `points`."""

    @model_validator(mode="before")
    @classmethod
    def settings_of_the_preset(cls, data: Any) -> Any:
        """The preset's values where the section has none of its own."""
        if not isinstance(data, Mapping):
            return data
        preset = preset_of(data.get("preset"))
        merged = preset | data
        if preset and isinstance(merged["guidance"], Mapping):
            merged["guidance"] = preset["guidance"] | merged["guidance"]
        return merged

    @field_validator("preset")
    @classmethod
    def preset_is_known(cls, preset: str | None) -> str | None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}{nearest(preset, list(PRESETS))}")
        return preset


class GateRecipe(Section):
    """What must hold after SFT before RL starts: refinement is real."""

    mode: Literal["on", "off"] = "on"
    first_accuracy: Share = 0.40
    damage: Share = 0.08
    margin: Share = 0.15
    """Repair must exceed both controls by this much."""

    @field_validator("mode", mode="before")
    @classmethod
    def on_and_off_may_be_bare(cls, mode: Any) -> Any:
        """YAML reads a bare on or off as a truth value."""
        return ("on" if mode else "off") if isinstance(mode, bool) else mode


class TrackingRecipe(Section):
    wandb: bool = True
    project: str = "irg-rl"


class Recipe(Section):
    """Everything that defines a run."""

    name: str
    description: str = ""
    seed: Seed = 0
    output_dir: str = "runs"
    """Folder that receives one folder per run."""
    budget_minutes: dict[str, float] = {}
    """Expected minutes per stage, printed beside the measured ones."""
    init_from: str | None = None
    """Checkpoint folder in the released BAGEL layout; None: a small model from scratch on the shapes world."""
    model: ModelConfig
    world: WorldRecipe = WorldRecipe()
    vae: VAETraining = VAETraining()
    sft: SFTRecipe | None = None
    sampling: SamplingRecipe = SamplingRecipe()
    rewards: RewardRecipe = RewardRecipe()
    rl: RLRecipe | None = None
    engine: EngineRecipe = EngineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    gate: GateRecipe = GateRecipe()
    tracking: TrackingRecipe = TrackingRecipe()

    @field_validator("budget_minutes")
    @classmethod
    def stages_are_known(cls, budget: dict[str, float]) -> dict[str, float]:
        unknown = [stage for stage in budget if stage not in STAGES]
        if unknown:
            raise ValueError("\n".join(f"unknown stage {stage!r}{nearest(stage, STAGES)}" for stage in unknown))
        return budget

    @model_validator(mode="after")
    def settings_fit_together(self):
        problems = self._of_sampling() + self._of_rl() + self._of_engine() + self._of_lora() + self._of_the_world()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _of_sampling(self) -> list[str]:
        problems = []
        pixels, table = self.model.pixels_per_token, self.model.max_latent_size
        if any(side % pixels or not 0 < side <= pixels * table for side in self.sampling.image_size):
            problems.append(
                f"sampling.image_size {list(self.sampling.image_size)}: sides must be multiples of {pixels} pixels "
                f"(one latent token) and at most {pixels * table} (model.max_latent_size)"
            )
        smallest = pixels * table // 2
        if self.sft is not None and min(self.sampling.image_size) < smallest:
            problems.append(
                f"sampling.image_size {list(self.sampling.image_size)}: SFT enlarges smaller pictures to {smallest} "
                f"pixels (half of model.max_latent_size {table}): these would be drawn in a size never trained"
            )
        guidance = self.evaluation.guidance
        if guidance.image_scale > 1 >= guidance.text_scale:
            problems.append(
                f"evaluation.guidance.image_scale {guidance.image_scale} has no effect without text guidance: set "
                "text_scale above 1"
            )
        return problems

    def _of_rl(self) -> list[str]:
        if self.rl is None:
            return []
        problems = []
        (low, high), size = self.rl.noise.window_range, self.rl.noise.window_size
        if not 0 <= low < high <= self.sampling.points - 1:
            limit = self.sampling.points - 1
            problems.append(f"rl.noise.window_range [{low}, {high}) must lie in [0, sampling.points - 1 = {limit})")
        elif size > high - low:
            problems.append(f"rl.noise.window_size {size} is wider than rl.noise.window_range [{low}, {high})")
        if not self.rewards.scorers:
            problems.append("rl needs a reward: add a scorer to rewards.scorers")
        credit = self.rl.credit
        if credit in ("improvement", "umm") and self.rewards.combine == "zscore_sum":
            problems.append(
                f"rl.credit {credit} asks if an image is right, which a z-score cannot say: set rewards.combine=sum"
            )
        if credit in ("umm", "no_improve_clamp") and self.sampling.turns == 1:
            problems.append(f"rl.credit {credit} trains the turns after the first: set sampling.turns to at least 2")
        if self.rl.probe_every and self.engine.zero_stage == 3:
            problems.append("rl.probe_every needs engine.zero_stage 0, 1 or 2: gradients are scattered under 3")
        if self.rl.groups % self.engine.learner_ranks:
            problems.append(
                f"rl.groups {self.rl.groups} must be a multiple of engine.learner_ranks {self.engine.learner_ranks}"
            )
        return problems

    def _of_engine(self) -> list[str]:
        problems = []
        if self.engine.dtype == "bf16" and self.engine.device == "cpu":
            problems.append("engine.dtype bf16 needs engine.device cuda; use fp32 on the CPU")
        if self.engine.dtype == "bf16" and self.engine.zero_stage < 2:
            problems.append(f"engine.dtype bf16 needs engine.zero_stage 2 or 3, found {self.engine.zero_stage}")
        if self.rl is not None and self.rl.optimizer.muon_lr and self.engine.zero_stage:
            problems.append("rl.optimizer.muon_lr needs engine.zero_stage 0: Muon works on whole matrices")
        if self.sft is None:
            return problems
        if self.sft_zero_stage and any(stage.optimizer.muon_lr for stage in self.sft.stages.values()):
            problems.append("sft: optimizer.muon_lr needs sft.zero_stage 0: Muon works on whole matrices")
        if self.engine.dtype == "bf16" and self.sft_zero_stage < 2:
            problems.append(f"engine.dtype bf16 needs sft.zero_stage 2 or 3, found {self.sft_zero_stage}")
        return problems

    def _of_lora(self) -> list[str]:
        adapted = {place: stage for place, stage in self.trained.items() if stage.lora is not None}
        problems = [
            f"{place}.{problem}" for place, stage in adapted.items() for problem in stage.lora.problems(stage.optimizer)
        ]
        if self.init_from is None and "sft.base" in adapted:
            problems.append(
                "sft.base.lora: there is no trained base to put adapters on; set init_from or leave the section out"
            )
        return problems

    @property
    def trained(self) -> dict[str, Stage | RLRecipe]:
        """The stages that train the model, by the names of their sections."""
        stages = {} if self.sft is None else {f"sft.{name}": stage for name, stage in self.sft.stages.items()}
        return stages if self.rl is None else stages | {"rl": self.rl}

    @property
    def rl_seed(self) -> int:
        """Seed of RL."""
        own = None if self.rl is None else self.rl.seed
        return self.seed if own is None else own

    @property
    def sft_zero_stage(self) -> int:
        """ZeRO stage of the SFT engine."""
        own = None if self.sft is None else self.sft.zero_stage
        return self.engine.zero_stage if own is None else own

    def _of_the_world(self) -> list[str]:
        """What a recipe asks of the rows and prompts that it makes for itself."""
        problems = []
        asked, there = self.evaluation.prompts, self.world.test_prompts
        if asked > there:
            problems.append(f"evaluation.prompts {asked} is more than world.test_prompts {there}")
        if self.sft is None or self.sft.data is not None:
            return problems
        made = set(self.world.sft_rows)
        for name, stage in self.sft.stages.items():
            if name == "stage2" and self.sft.stage1 is not None and self.world.own_images:
                made |= {f"{OWN_ROWS}/{mode}" for mode in OWN_MODES}
            for index, source in enumerate(stage.sources):
                if source.folder not in made:
                    problems.append(
                        f"sft.{name}.sources.{index}.folder {source.folder!r} is not made by the world at that stage; "
                        f"there are {', '.join(sorted(made))}"
                    )
        return problems

    def digest(self) -> str:
        """First 12 hex digits of the sha256 of the settings that change the result: not the output folder, nor the
        name of a preset, whose values are there, nor what `evaluation` leaves to `sampling`."""
        data = self.model_dump(mode="json", exclude={"output_dir", "description", "budget_minutes", "tracking"})
        evaluation = data["evaluation"].items()
        data["evaluation"] = {name: value for name, value in evaluation if name != "preset" and value is not None}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110)


def adapters_of(trained: Stage | RLRecipe) -> LoraRecipe | None:
    """The adapters that a stage trains: those of the experts with a learning rate."""
    if trained.lora is None:
        return None
    rates = trained.optimizer.rates
    experts = tuple(expert for expert in trained.lora.experts if rates[expert])
    return trained.lora.model_copy(update={"experts": experts})


class RecipeError(ValueError):
    """A recipe that can't be run; the message lists every problem, one per line."""


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read `path`, apply `key.sub=value` overrides and validate.

    Raises RecipeError with every problem found, each naming the setting and the nearest known name.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe; `irg-rl ls` lists those at hand")
    try:
        base = OmegaConf.load(path)  # also refuses a setting that is given twice
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from error
    for key, value in presets_first(map(_split, overrides)):
        try:
            OmegaConf.update(base, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
            raise RecipeError(f"'{key}={value}': cannot be applied: {error}") from error
    try:
        data = OmegaConf.to_container(base, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {error}") from error
    return parse_recipe(data, where=str(path))


def changed_recipe(recipe: Recipe, settings: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with other settings, by dotted name; see `load_recipe` for the errors."""
    data = recipe.model_dump(mode="json")
    for key, value in presets_first(settings.items()):
        *sections, name = key.split(".")
        place = data
        for section in sections:
            place = place[section]
        place[name] = value
    return parse_recipe(data, where)


def _split(override: str) -> tuple[str, Any]:
    """Dotted name and value."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"{override!r}: an override is written key=value, for example rl.updates=20")
    try:
        return SHORT_NAMES.get(key, key), yaml.safe_load(value)
    except YAMLError as error:
        raise RecipeError(f"{override!r}: cannot be applied: {error}") from error


def parse_recipe(data: dict, where: str = "recipe") -> Recipe:
    """Validate a plain dict; see `load_recipe` for the errors."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _explain(problem)]
        raise RecipeError(f"{where}: {len(lines)} problem(s)\n" + "\n".join(f"  {line}" for line in lines)) from error


def _explain(problem: dict) -> list[str]:
    location = [str(part) for part in problem["loc"]]
    setting = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_settings(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        if near:
            return [f"{setting}: unknown setting; did you mean {'.'.join([*location[:-1], near[0]])}?"]
        return [f"{setting}: unknown setting; known here: {', '.join(known)}"]
    if problem["type"] == "value_error":
        lines = problem["msg"].removeprefix("Value error, ").splitlines()
        return [f"{setting}: {line}" if setting else line for line in lines]
    value = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    return [f"{setting or 'the recipe'}: {problem['msg']}{value}"]


def nearest(word: str, known: Sequence[str]) -> str:
    """How an error goes on after an unknown word."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _known_settings(location: list[str]) -> list[str]:
    """Field names of the section at `location`, stepping through lists, dicts and optional sections."""
    current: type | None = Recipe
    for part in location:
        if current is None:
            return []
        if part in current.model_fields:
            current = _section_of(current.model_fields[part].annotation)
    return sorted(current.model_fields) if current is not None else []


def _section_of(annotation) -> type | None:
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if is_class and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _section_of(argument)
        if found is not None:
            return found
    return None

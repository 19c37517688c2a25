"""Settings of training: the stages of SFT and their data, the optimizer, and LoRA adapters."""

import typing
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.sections import Decay, PathText, Positive, Rate, Section, Share

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DataSource(Section):
    """One learning mode in a stage's mixture."""

    folder: str
    """Folder of parquet files in the IRG schema, relative to `sft.data`."""
    weight: float = Field(default=1.0, ge=0)
    mandatory: bool = False
    """True: every pack begins with a row of this source, whatever its weight."""


class Dropout(Section):
    """Condition dropout. branch: drops exactly what the guidance branches leave out at inference, with the positions of
    inference. irg: the original; drops each item on its own and leaves a rope gap where an image was."""

    mode: Literal["branch", "irg"] = "branch"
    image: Share = 0.05
    """branch, refinements: share of draws without all condition images (VAE and ViT)."""
    last_text: Share = 0.05
    """branch, refinements: share of draws without the reflection right before the target image."""
    all_text: Share = 0.05
    """branch, first images: share of draws without any text but a system text."""
    irg_text: Share = 0.0
    """irg: share of texts that are dropped, texts with a loss included, as in the original."""
    irg_vit: Share = 0.0
    """irg: share of condition images without their ViT tokens."""
    irg_vae: Share = 0.3
    """irg: share of condition images without their clean latents."""

    @model_validator(mode="after")
    def shares_leave_something(self):
        if self.image + self.last_text > 1:
            raise ValueError(f"image {self.image} and last_text {self.last_text} are shares of one draw: at most 1")
        return self


class OptimizerRecipe(Section):
    lr: float = Field(default=1e-3, ge=0)
    """Learning rate of the understanding expert, and default of the other parts. 0 freezes a part."""
    gen_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the generation expert; None: `lr`."""
    vision_lr: float | None = Field(default=None, ge=0)
    """Learning rate of vision tower and connector; None: `lr`."""
    muon_lr: float | None = Field(default=None, gt=0)
    """Learning rate of Muon, which then trains the matrices of all layers; AdamW trains the rest. None: only AdamW.
    Meant for training from scratch. Needs ZeRO stage 0."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: Rate = 1.0
    warmup: int = Field(default=0, ge=0)
    """Optimizer steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_share: Share = 0.0
    """cosine: learning rate of the last step, as a share of the full rate."""

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
    """LoRA adapters on the matrices of the experts. All other weights are frozen, also vision (docs/recipes.md)."""

    rank: Positive = 64
    alpha: Positive = 128
    """The output of an adapter is multiplied by alpha / rank."""
    experts: tuple[Literal["und", "gen"], ...] = ("und", "gen")
    targets: tuple[Projection, ...] = typing.get_args(Projection)
    """Matrices with an adapter, in every layer of these experts."""

    @field_validator("experts", "targets")
    @classmethod
    def something_is_named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("an empty list trains nothing: name one at least, or leave the setting out for all")
        return names

    def problems(self, optimizer: OptimizerRecipe) -> list[str]:
        """Contradictions between adapters and optimizer, one line each."""
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
"""If it is absent, it is not written to recipe.yaml and not part of the digest."""


class Stage(Section):
    """One IRGL stage."""

    steps: Positive
    """Most optimizer steps. The stage ends earlier when validation no longer improves."""
    sources: list[DataSource]
    tokens_per_pack: Positive = 3600
    """A pack is full when the next row would exceed this. Only mandatory rows, and reflections that the image branch of
    the dropout repeats, may exceed it."""
    packs_per_step: Positive = 1
    """Packs of one optimizer step, over all learner ranks. The stage uses at most this many of the
    `engine.learner_ranks`."""
    max_row_tokens: Positive = 2048
    """Longer rows are rejected and listed in rejected.jsonl."""
    ce_weight: float = Field(default=1.0, ge=0)
    mse_weight: float = Field(default=1.0, ge=0)
    noise_blocks: Positive = 1
    """Noise levels trained per target image in one forward pass. Each is a noise block after the shared context."""
    first_noise_blocks: Annotated[int, Field(ge=1)] | None = Field(
        default=None, exclude_if=lambda blocks: blocks is None
    )
    """Noise levels of a first image; None: `noise_blocks`. A first image sets the layout and has a short context, so
    more noise levels help and cost little."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    lora: LoraSection = None
    """None: all weights are trained."""
    patience: Positive = 6
    """The stage ends after this many validations without improvement."""

    @property
    def noise_blocks_by_kind(self) -> tuple[int, int]:
        """Noise blocks of a first image, and of an image that has images before it."""
        return self.first_noise_blocks or self.noise_blocks, self.noise_blocks

    @model_validator(mode="after")
    def something_is_drawn(self):
        if not any(source.weight > 0 for source in self.sources):
            raise ValueError("sources needs at least one entry with a weight above 0")
        return self


class SFTRecipe(Section):
    data: PathText | None = None
    """Folder with one folder of parquet per mode; None: the task makes them."""
    base: Stage | None = None
    """Training of the base model before IRGL, for a model from scratch."""
    stage1: Stage | None = None
    """All six modes: thinking and reflection."""
    stage2: Stage | None = None
    """Whole trajectories. Starts from stage 1, or from `init_from` if there is no stage 1."""
    dropout: Dropout = Dropout()
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """ZeRO stage of the SFT engine; None: `engine.zero_stage`."""
    ema_decay: Decay = 0.995
    validate_every: Positive = 200
    checkpoint_every: Positive = 500
    validation_rows: Positive = 256
    """Rows kept for validation: equally many from the first row group of each source."""

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


class VAETraining(Section):
    """The autoencoder of a model from scratch, trained on pictures of the task."""

    steps: Positive = 1500
    batch_size: Positive = 64
    lr: Rate = 2e-3
    kl_weight: float = Field(default=1e-5, ge=0)
    min_checker_agreement: Share = 0.99
    """Share of held-out reconstructions that the task's checker must read like the originals; less stops the run."""

"""Settings of training: the stages of SFT and their data, the optimizer, and LoRA adapters."""

import typing
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.sections import Decay, PathText, Positive, Rate, Section, Share

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DataSource(Section):
    """One source of training examples (rows) for an SFT stage. All rows of a source are of one kind, called a learning
    mode. A stage mixes the rows of several sources in proportion to the weights of the sources."""

    folder: str
    """Folder of parquet files in the IRG schema (docs/recipes.md). The path is relative to `sft.data`."""
    weight: float = Field(default=1.0, ge=0)
    mandatory: bool = False
    """True: every pack begins with one row of this source, whatever its weight is."""


class Dropout(Section):
    """Condition dropout: hide parts of the context while an image is trained. Classifier-free guidance needs this,
    because it also evaluates the model on shorter contexts.

    `mode: branch` hides exactly the texts or images that guidance leaves out at inference. The token positions are also
    the same as at inference.

    `mode: irg` is the method of the original code of IRG (Interleaving Reasoning Generation). It drops each text, the
    VAE tokens of each image, and the ViT tokens of each image, all independently of each other. Dropped tokens of an
    image leave a gap in the rope positions.
    """

    mode: Literal["branch", "irg"] = "branch"
    image: Share = 0.05
    """Used with `mode: branch`, for refinements: share of noise blocks (noisy copies of the image that are trained)
    that see no earlier image, neither its VAE tokens nor its ViT tokens."""
    last_text: Share = 0.05
    """Used with `mode: branch`, for refinements: share of noise blocks (noisy copies of the image that are trained)
    that do not see the reflection right before the image."""
    all_text: Share = 0.05
    """Used with `mode: branch`, for first images: share of noise blocks (noisy copies of the image that are trained)
    that see no text except a system text."""
    irg_text: Share = 0.0
    """Used with `mode: irg`: share of texts that are dropped. As in the original code of IRG, texts with a loss can
    also be dropped."""
    irg_vit: Share = 0.0
    """Used with `mode: irg`: share of condition images whose ViT tokens are dropped."""
    irg_vae: Share = 0.3
    """Used with `mode: irg`: share of condition images whose clean latents (VAE tokens) are dropped."""

    @model_validator(mode="after")
    def shares_leave_something(self):
        if self.image + self.last_text > 1:
            raise ValueError(f"image {self.image} and last_text {self.last_text} are shares of one draw: at most 1")
        return self

    @model_validator(mode="after")
    def every_share_belongs_to_the_mode(self):
        of_irg = {name for name in type(self).model_fields if name.startswith("irg_")}
        others = of_irg if self.mode == "branch" else type(self).model_fields.keys() - of_irg - {"mode"}
        usual = {name: type(self).model_fields[name].default for name in others}
        changed = sorted(name for name in others if getattr(self, name) not in (0.0, usual[name]))
        if changed:
            raise ValueError(f"{', '.join(changed)}: no effect with mode {self.mode}: leave out, or set another mode")
        return self


class OptimizerRecipe(Section):
    lr: float = Field(default=1e-3, ge=0)
    """Learning rate of the understanding expert (the weights that process text tokens and ViT tokens). It is also the
    default for the generation expert and the vision tower. A learning rate of 0 freezes the weights that it belongs
    to."""
    gen_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the generation expert (the weights that process the VAE tokens of images). null: the value of
    `lr`."""
    vision_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the vision tower (ViT) and of the connector between the ViT and the language model. null: the
    value of `lr`."""
    muon_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the optimizer Muon. If it is given, Muon trains the matrices of all layers, and AdamW trains the
    rest. null: AdamW trains everything. Muon is meant for training from scratch and needs ZeRO stage 0."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Rate = 1e-8
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: Rate = 1.0
    warmup: int = Field(default=0, ge=0)
    """Number of optimizer steps in which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_share: Share = 0.0
    """With schedule cosine: learning rate of the last step, as a share of the full rate."""

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates by part of the model: und (understanding expert), gen (generation expert) and vision."""
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

    @model_validator(mode="after")
    def a_rate_ends_low_only_if_it_falls(self):
        if self.final_lr_share and self.schedule == "constant":
            raise ValueError("final_lr_share has no effect with schedule constant: set schedule=cosine or leave it out")
        return self


class LoraRecipe(Section):
    """LoRA adapters on the matrices of the two experts of the model (understanding and generation). All other weights
    are frozen, including the vision tower (docs/recipes.md)."""

    rank: Positive = 64
    alpha: Positive = 128
    """The output of an adapter is multiplied by alpha / rank."""
    experts: tuple[Literal["und", "gen"], ...] = ("und", "gen")
    targets: tuple[Projection, ...] = typing.get_args(Projection)
    """Matrices that get an adapter, in every layer of the experts that `experts` names."""

    @field_validator("experts", "targets")
    @classmethod
    def something_is_named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("an empty list trains nothing: name one at least, or leave the setting out for all")
        return names

    def problems(self, optimizer: OptimizerRecipe) -> list[str]:
        """Return one line for each setting of the adapters that contradicts the settings of the optimizer."""
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


OWN_REFINED = "own/refined"
"""Name of the source of rows that `OwnTrajectories` makes."""
LoraSection = Annotated[LoraRecipe | None, Field(exclude_if=lambda lora: lora is None)]
"""Type of an optional `lora` section. If the section is absent, it is not written to recipe.yaml and is not part of the
digest."""


class Stage(Section):
    """One stage of supervised fine-tuning (SFT)."""

    steps: Positive
    """Largest number of optimizer steps. The stage ends earlier if the validation no longer improves."""
    sources: list[DataSource]
    tokens_per_pack: Positive = 3600
    """Size of a pack (a sequence of several training rows), in tokens. A pack is full when the next row would make it
    longer than this. Only two things may make it longer: rows of mandatory sources, and reflections that are repeated
    for the image branch of the dropout."""
    packs_per_step: Positive = 1
    """Total number of packs in one optimizer step. The learner ranks share these packs. If `engine.learner_ranks` is
    larger than this number, the stage uses only this many ranks."""
    max_row_tokens: Positive = 2048
    """Largest number of tokens of a row. Longer rows are rejected and listed in rejected.jsonl."""
    ce_weight: float = Field(default=1.0, ge=0)
    mse_weight: float = Field(default=1.0, ge=0)
    noise_blocks: Positive = 1
    """Number of noise levels that are trained per target image in one forward pass. For each level, a separate noisy
    copy of the image follows the shared context."""
    first_noise_blocks: Annotated[int, Field(ge=1)] | None = Field(
        default=None, exclude_if=lambda blocks: blocks is None
    )
    """Number of noise levels for a first image. null: the value of `noise_blocks`. More noise levels help, because a
    first image decides the layout of the picture. They cost little, because the context of a first image is short."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    lora: LoraSection = None
    """LoRA adapters to train. null: all weights are trained."""
    patience: Positive = 6
    """The stage ends after this many validations in a row without improvement."""

    @property
    def noise_blocks_by_kind(self) -> tuple[int, int]:
        """Two numbers: how many noisy copies of an image (noise blocks) are trained for a first image, and how many for
        every later image."""
        return self.first_noise_blocks or self.noise_blocks, self.noise_blocks

    @model_validator(mode="after")
    def something_is_drawn(self):
        if not any(source.weight > 0 for source in self.sources):
            raise ValueError("sources needs at least one entry with a weight above 0")
        return self


class OwnTrajectories(Section):
    """Rejection sampling between SFT stages 1 and 2 (as in RAFT, arXiv 2304.06767). The model draws trajectories of two
    turns for training prompts, with the settings of `evaluation`. A judge is shown the first and the refined image of
    each, in both orders. A trajectory becomes a training row of stage 2 if the judge prefers the refined image in both
    orders, and if no text was cut off. The rows are the source `own/refined`."""

    count: Positive = 2000
    """Number of trajectories that are drawn."""
    judge: str
    """Name of a judge in `rewards.scorers`."""


class SFTRecipe(Section):
    data: PathText | None = None
    """Folder that has one folder of parquet files per learning mode. null: the task creates the data."""
    base: Stage | None = None
    """Stage that trains the base model, if the model is trained from scratch. It comes before IRGL (the six learning
    modes of Interleaving Reasoning Generation)."""
    stage1: Stage | None = None
    """First stage of IRGL: all six learning modes, for thinking and reflection."""
    stage2: Stage | None = None
    """Second stage of IRGL: whole trajectories. It starts from the model of stage 1, or from `init_from` if there is no
    stage 1."""
    own: OwnTrajectories | None = Field(default=None, exclude_if=lambda own: own is None)
    """Trajectories of the model itself as rows of stage 2. null: none."""
    dropout: Dropout = Dropout()
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """ZeRO stage of the SFT engine. null: the value of `engine.zero_stage`."""
    learner_ranks: Positive | None = Field(default=None, exclude_if=lambda ranks: ranks is None)
    """Number of processes that train together in SFT. null: the value of `engine.learner_ranks`. SFT has no rollout
    actors, so it can use the GPUs that these have in RL."""
    ema_decay: Decay = 0.995
    validate_every: Positive = 200
    checkpoint_every: Positive = 500
    validation_rows: Positive = 256
    """Number of rows that are kept for validation. Each source gives the same number of rows, from its first row group
    (a block of rows in a parquet file)."""
    rejected_share: Share = Field(default=0.05, exclude_if=lambda share: share == 0.05)
    """Budget for rejected rows: the largest share of the rows of a source that may be broken or too long. With more,
    the stage ends with an error, because it would train on what is left. The share is that of the rows read so far, and
    of at least 1000 rows (or of all, if the source has fewer). 1: no limit."""
    data_workers: Annotated[int, Field(ge=0)] = Field(default=0, exclude_if=lambda workers: not workers)
    """Number of threads of each rank that decode the images of the next steps while a step is computed. 0: images are
    decoded when they are needed. The packs are the same, so this setting does not change the digest."""
    latents: PathText | None = Field(default=None, exclude_if=lambda folder: folder is None)
    """Folder in which the latents of images are kept on the disk, so that the autoencoder encodes every image once,
    over all epochs, ranks, resumes and runs. An image of 1024 x 1024 pixels takes 2 MB. null: latents are kept in
    memory only. This setting does not change the digest."""

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that the recipe has, by name, in the order of training."""
        all_three = {"base": self.base, "stage1": self.stage1, "stage2": self.stage2}
        return {name: stage for name, stage in all_three.items() if stage is not None}

    @model_validator(mode="after")
    def has_a_stage(self):
        if not self.stages:
            raise ValueError("sft needs base, stage1 or stage2; leave the section out to train no SFT")
        return self


class VAETraining(Section):
    """Settings for training the autoencoder of a model from scratch, on pictures of the task."""

    steps: Positive = 1500
    batch_size: Positive = 64
    lr: Rate = 2e-3
    kl_weight: float = Field(default=1e-5, ge=0)
    min_checker_agreement: Share = 0.99
    """The checker of the task recognises what an image shows. After training, it is applied to images that were not
    trained on and to their reconstructions by the autoencoder. This setting is the smallest allowed share of images for
    which both results are the same. If the share is smaller, the run stops."""

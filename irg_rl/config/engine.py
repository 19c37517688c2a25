"""Settings of the machine (ranks, actors, devices) and of tracking."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from irg_rl.sections import Positive, Rate, Section


class EngineRecipe(Section):
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    learner_ranks: Positive = 1
    """Processes that train together in RL, and in SFT stages whose `packs_per_step` is large enough for a pack per
    rank. On GPUs each rank has its own GPU."""
    rollout_actors: Positive = 2
    threads: Positive = 2
    """Torch threads of a single process. Actors that run at the same time share them."""
    device: Literal["cpu", "cuda"] = "cpu"
    gpu_share: Annotated[float, Field(ge=1e-3, le=1)] = Field(default=1.0, exclude_if=lambda share: share == 1)
    """Share of a GPU for every learner rank and rollout actor. With 1/3 three of them run on one GPU. Several learner
    ranks need 1."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = Field(default=False, exclude_if=lambda on: not on)
    """Compute the activations of every layer again in the backward pass instead of storing them. Takes about a third
    more time, and stores the activations of one layer instead of all."""
    attention: Literal["auto", "sdpa", "flex", "flash"] = Field(
        default="auto", exclude_if=lambda kernels: kernels == "auto"
    )
    """Attention kernels (docs/bagel.md). auto: SDPA on the CPU. On a GPU FlexAttention for packs and, if it is
    installed, flash-attn for prompts and denoising steps."""
    deadline_s: Rate = 300.0
    """Longest wait for an answer of an actor, in seconds."""
    keep_checkpoints: Positive = 2

    @property
    def gpus(self) -> float:
        """GPUs that an actor requests from Ray."""
        return self.gpu_share if self.device == "cuda" else 0.0


class TrackingRecipe(Section):
    wandb: bool = True
    project: str = "irg-rl"
    """Name of the project in wandb."""

    @field_validator("project")
    @classmethod
    def project_is_a_name(cls, project: str) -> str:
        if not 0 < len(project) <= 128 or set(project) & set("/\\#?%:") or not project.isprintable():
            raise ValueError(f"{project!r:.140}: wandb takes 1 to 128 characters without / \\ # ? % and :")
        return project

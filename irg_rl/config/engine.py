"""The machine: ranks, actors, devices; and where a run is tracked."""

from typing import Annotated, Literal

from pydantic import Field

from irg_rl.config.sections import Positive, Rate, Section


class EngineRecipe(Section):
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    learner_ranks: Positive = 1
    """Processes that train together: of RL, and of the SFT stages whose `packs_per_step` give each of them a pack. On
    GPUs each has one of its own."""
    rollout_actors: Positive = 2
    threads: Positive = 2
    """Torch threads for a lone process; actors that run side by side share them."""
    device: Literal["cpu", "cuda"] = "cpu"
    gpu_share: Annotated[float, Field(ge=1e-3, le=1)] = Field(default=1.0, exclude_if=lambda share: share == 1)
    """Part of a GPU that every learner rank and every rollout actor takes: a third puts three of them on one. Several
    learner ranks want whole ones."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = Field(default=False, exclude_if=lambda on: not on)
    """Run every layer again in the backward instead of keeping what it made: about a third more time, and memory for
    one layer in place of all."""
    attention: Literal["auto", "sdpa", "flex", "flash"] = Field(
        default="auto", exclude_if=lambda kernels: kernels == "auto"
    )
    """Kernels of attention (docs/bagel.md). auto: on a GPU FlexAttention for packs and flash-attn, where it is
    installed, for prompts and denoising steps; SDPA elsewhere."""
    deadline_s: Rate = 300.0
    """Longest wait for any answer of an actor."""
    keep_checkpoints: Positive = 2

    @property
    def gpus(self) -> float:
        """What an actor takes of the GPUs that Ray counts."""
        return self.gpu_share if self.device == "cuda" else 0.0


class TrackingRecipe(Section):
    wandb: bool = True
    project: str = "irg-rl"

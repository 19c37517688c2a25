"""The options of the task `shapes_world`."""

from typing import Literal

from pydantic import Field

from irg_rl.sections import Positive, Section, Share


class ShapesSettings(Section):
    """Options for the prompts and the training rows that a run on the shapes world makes."""

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
    """Maps a learning mode to the number of training rows that are made for it before stage 1 of SFT (supervised
    fine-tuning)."""
    deep_share: Share = 0.0
    """Share of rows of the mode improving_full in which another reflection follows after a refined image. It needs
    `sampling.history: full`."""
    overlooked: dict[Literal["color", "shape", "extra", "missing", "relation"], Share] = Field(
        default={}, exclude_if=lambda kinds: not kinds
    )
    """Maps a kind of defect to the share of such defects that the teacher overlooks. The teacher names no repair for an
    overlooked defect, so no training row shows how to repair it."""
    own_images: int = Field(default=3000, ge=0)
    """Number of first images that the model draws itself between the SFT stages, so that it can learn from its own
    errors. If it is 0, the model draws none."""
    own_image_steps: Positive = 12
    """Number of time points of the sampler when the model draws the images of `own_images`."""
    train_prompts: Positive = 6000
    validation_prompts: Positive = 128
    """Number of validation prompts. In the splits validation, test and hard, no two prompts have the same set of
    constraints."""
    test_prompts: Positive = 400
    hard_prompts: Positive = 300
    """Number of prompts for `irg-rl eval --split hard`. Each of these prompts states three to six constraints."""
    prompt_mix: dict[str, float] | None = None
    """Maps the tag of a kind of prompt, such as `counting`, to its share among the prompts. If null, the default mix of
    the shapes world is used."""

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
    """Learning mode -> number of rows that are made for it before stage 1 of SFT."""
    deep_share: Share = 0.0
    """Share of improving_full rows that continue after a refined image. Use it for runs with `sampling.history:
    full`."""
    overlooked: dict[Literal["color", "shape", "extra", "missing", "relation"], Share] = Field(
        default={}, exclude_if=lambda kinds: not kinds
    )
    """Kind of defect -> share of such defects that the teacher does not mention, like a teacher with weak eyes. No row
    shows how to repair these defects."""
    own_images: int = Field(default=3000, ge=0)
    """Number of first images that the model draws between the SFT stages, to learn from its own failures. With 0, there
    is no such step."""
    own_image_steps: Positive = 12
    """Number of time points of the sampler when it draws these images."""
    train_prompts: Positive = 6000
    validation_prompts: Positive = 128
    """Number of validation prompts. In the splits validation, test and hard, every prompt has a different set of
    constraints."""
    test_prompts: Positive = 400
    hard_prompts: Positive = 300
    """Number of prompts for `irg-rl eval --split hard`. They are scenes with three to six constraints."""
    prompt_mix: dict[str, float] | None = None
    """Tag of a kind of prompt -> its share among the prompts. null: the default mix of the shapes world."""

"""The options of the task `shapes_world`."""

from typing import Literal

from pydantic import Field

from irg_rl.sections import Positive, Section, Share


class ShapesSettings(Section):
    """Prompts and rows that a run on the shapes world makes for itself."""

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
        default={}, exclude_if=lambda kinds: not kinds
    )
    """Kind of defect -> share of those that the teacher of the rows passes over, as one that looks less well than it
    should. No row shows how to mend what it passes over."""
    own_images: int = Field(default=3000, ge=0)
    """First images that the model draws between the stages to learn from its own failures; 0 leaves the step out."""
    own_image_steps: Positive = 12
    """Time points of the sampler that draws them."""
    train_prompts: Positive = 6000
    validation_prompts: Positive = 128
    """In this split and the next two every prompt has a set of constraints of its own."""
    test_prompts: Positive = 400
    hard_prompts: Positive = 300
    """Scenes of three to six constraints, for `irg-rl eval --split hard`."""
    prompt_mix: dict[str, float] | None = None
    """Share of each tag among the prompts; None is the world's own mix."""

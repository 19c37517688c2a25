"""Evaluation and the gate before RL."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.config.sampling import GuidanceRecipe, NoiseRecipe
from irg_rl.presets import PRESETS, preset_of
from irg_rl.sections import Positive, Rate, Section, Seed, Share, nearest


class EvaluationRecipe(Section):
    prompts: Positive = 300
    turns: Annotated[int, Field(ge=2)] = 4
    batch_size: Positive = 64
    seed: Seed = 1234
    strips: Positive = 12
    """Prompts shown as picture strips in the report."""
    preset: str | None = None
    """Name of a preset (presets.py): the values of BAGEL or IRG for the five settings below. In a file, a setting that
    is given beside the preset wins. As an override on the command line, the preset replaces all five of the file."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of texts in evaluation and `generate`. 0 takes the most likely token, as BAGEL does."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Time points of the flow. null takes the number of `sampling`."""
    shift: Rate | None = None
    """Shift of the time points. null takes that of `sampling`."""
    guidance: GuidanceRecipe = GuidanceRecipe()
    noise: NoiseRecipe | None = Field(default=None, exclude_if=lambda noise: noise is None)
    """Which denoising steps are stochastic in evaluation and `generate`. null: no step, as in BAGEL. Noise lets later
    steps correct errors of earlier ones, but it needs more `points`."""

    @model_validator(mode="before")
    @classmethod
    def settings_of_the_preset(cls, data: Any) -> Any:
        """Fill in the preset's values for settings that the section does not give."""
        if not isinstance(data, Mapping):
            return data
        preset = preset_of(data.get("preset"))
        merged = preset | dict(data)
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
    """The gate: a test that refinement is real, by its thresholds on three measures."""

    mode: Literal["on", "off"] = "on"
    """off: the gate is measured but has no effect."""
    after: Literal["sft", "rl"] = "sft"
    """The evaluation that must pass the gate. `sft`: RL starts only if the gate passes after SFT. `rl`: RL starts in
    any case, and the run ends with an error if the gate does not pass after RL."""
    first_accuracy: Share | None = None
    """Smallest share of right first images. null, here and below: the threshold of the task. A task may have none."""
    damage: Share | None = None
    """Largest share of right first images that refinement may make wrong."""
    margin: Share | None = None
    """The share of repaired images must exceed that of both controls by at least this much."""

    @field_validator("mode", mode="before")
    @classmethod
    def on_and_off_may_be_bare(cls, mode: Any) -> Any:
        """YAML reads on and off without quotes as true and false."""
        return ("on" if mode else "off") if isinstance(mode, bool) else mode

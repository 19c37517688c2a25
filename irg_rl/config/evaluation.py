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
    """How BAGEL or IRG sample, by name (presets.py): values of the five settings below. Those that stand beside it in
    the file count more; as an override it replaces what the file says of the five."""
    temperature: float = Field(default=0.0, ge=0)
    """Of texts in evaluation and `generate`; 0 takes the most likely token, as BAGEL does."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Time points of the flow; None: those of `sampling`."""
    shift: Rate | None = None
    """Of the time points; None: that of `sampling`."""
    guidance: GuidanceRecipe = GuidanceRecipe()
    noise: NoiseRecipe | None = Field(default=None, exclude_if=lambda noise: noise is None)
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
    """What must hold: refinement is real."""

    mode: Literal["on", "off"] = "on"
    """off: it is measured, and RL starts whatever it says."""
    after: Literal["sft", "rl"] = "sft"
    """The evaluation that is asked. `sft`: RL starts only if the gate holds. `rl`: RL starts whatever SFT came to, and
    the run ends with an error unless the gate holds after it."""
    first_accuracy: Share | None = None
    """Share of first images that must be right. Here and below, None: what the task asks; a task may have no gate."""
    damage: Share | None = None
    """Share of right first images that refinement may break."""
    margin: Share | None = None
    """Repair must exceed both controls by this much."""

    @field_validator("mode", mode="before")
    @classmethod
    def on_and_off_may_be_bare(cls, mode: Any) -> Any:
        """YAML reads a bare on or off as a truth value."""
        return ("on" if mode else "off") if isinstance(mode, bool) else mode

"""Settings of the evaluation, and of the gate (a test that refinement works)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.config.sampling import GuidanceRecipe, NoiseRecipe
from irg_rl.presets import PRESETS, preset_of
from irg_rl.sections import Positive, Rate, Section, Seed, Share, nearest


class EvaluationRecipe(Section):
    split: str = Field(default="test", exclude_if=lambda split: split == "test")
    """Set of prompts on which the run evaluates its checkpoints: validation, test, or another set of the task. Use
    validation while you choose settings. `irg-rl eval --split test` then measures the final checkpoint."""
    prompts: Positive = 300
    turns: Annotated[int, Field(ge=2)] = 4
    batch_size: Positive = 64
    seed: Seed = 1234
    strips: Positive = 12
    """Number of prompts for which the report shows a strip of pictures."""
    keep_mb: Annotated[int, Field(ge=0)] = 256
    """Largest size in MiB of the texts and images that each evaluation stores for `irg-rl view`, of the model's own
    refinement and of the controls. If it is too small for all trajectories, the first ones are stored. 0: none."""
    preference: str | None = Field(default=None, exclude_if=lambda judge: judge is None)
    """Name of a judge in `rewards.scorers`. The judge is shown every refined image beside the first image of its
    trajectory, and says which of the two fits the prompt better. It is asked in both orders of the two images. If the
    answers disagree, the pair is a tie. null: no judge is asked."""
    preset: str | None = None
    """Name of a preset (irg_rl/presets.py). A preset gives the five settings below (temperature, points, shift,
    guidance, noise) the values of BAGEL or IRG. If a recipe file gives both a preset and one of these settings, the
    value of the setting is used. A preset on the command line replaces all five settings of the file."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature for sampling texts in evaluation and in `irg-rl generate`. 0 takes the most likely token, as BAGEL
    does."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Number of time points of the flow. null: the number in `sampling`."""
    shift: Rate | None = None
    """Shift of the time points. null: the shift in `sampling`."""
    guidance: GuidanceRecipe = GuidanceRecipe()
    noise: NoiseRecipe | None = Field(default=None, exclude_if=lambda noise: noise is None)
    """Which denoising steps are stochastic in evaluation and in `irg-rl generate`. null: none, as in BAGEL. Noise lets
    later steps correct errors of earlier steps, but it needs more `points`."""

    @model_validator(mode="before")
    @classmethod
    def settings_of_the_preset(cls, data: Any) -> Any:
        """Return the section `data` (settings of the evaluation) with the values of its preset added. A preset is a
        named set of values. A setting that `data` already gives keeps its value."""
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
    """The gate: a test that refinement really improves images. It compares three measured numbers with thresholds:
    * `first_accuracy`: threshold of the share of right first images
    * `damage`: threshold of the share of right first images that become wrong by refinement
    * `margin`: threshold of the lead of refinement over two controls"""

    mode: Literal["on", "off"] = "on"
    """on: the gate must be passed. off: the gate is measured but has no effect."""
    after: Literal["sft", "rl"] = "sft"
    """The evaluation that must pass the gate. sft: RL starts only if the gate passes after SFT. rl: RL always starts,
    and the run ends with an error if the gate does not pass after RL."""
    first_accuracy: Share | None = None
    """Smallest allowed share of first images that are right. For `first_accuracy`, `damage` and `margin`, null means
    that the threshold of the task is used. A task may have no thresholds."""
    damage: Share | None = None
    """Largest allowed share of right first images that refinement makes wrong."""
    margin: Share | None = None
    """Smallest allowed lead of refinement over each of two controls. One control draws a new image without refinement.
    The other control refines with the reflection of another prompt. The lead over a control is the share of wrong first
    images that refinement repairs, minus the share that the control repairs."""

    @field_validator("mode", mode="before")
    @classmethod
    def on_and_off_may_be_bare(cls, mode: Any) -> Any:
        """Turn true and false back into on and off. YAML reads on and off as true and false if they are not in
        quotes."""
        return ("on" if mode else "off") if isinstance(mode, bool) else mode

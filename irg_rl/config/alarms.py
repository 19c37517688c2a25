"""Settings of the alarms of RL. An alarm tells that something goes wrong which the reward does not show, for example
that the model has found a way to get reward without doing its task (reward hacking)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from irg_rl.sections import Rate, Section

FEWEST = 4
"""Smallest number of updates after the first `baseline` ones with which an alarm can ring."""


class Alarm(Section):
    threshold: Rate
    """Smallest change that raises the alarm. The setting of each alarm says in which unit."""
    do: Literal["warn", "stop", "off"] = "warn"
    """warn: write one line into the log, and go on. stop: write a checkpoint and the report, and end the run with an
    error. `irg-rl resume` goes on from there. off: nothing; the measured numbers are logged all the same."""

    @field_validator("do", mode="before")
    @classmethod
    def off_may_be_bare(cls, do: Any) -> Any:
        """Turn false back into off. YAML reads off as false if it is not in quotes."""
        return "off" if do is False else do


class AlarmsRecipe(Section):
    """All alarms. They compare the means of two windows: the first `baseline` updates of the run, and the latest
    `window` updates. An alarm rings if the difference reaches the threshold and cannot be chance."""

    baseline: Annotated[int, Field(ge=4)] = 8
    """Number of updates at the beginning of RL with which all later updates are compared."""
    window: Annotated[int, Field(ge=4)] = 8
    """Number of the latest updates that are compared with the beginning. A longer window finds smaller changes, but
    later."""
    held_out: Alarm = Alarm(threshold=4.0)
    """A held-out scorer falls while the reward rises. Every scorer with `held_out: true` is watched. Unit of the
    threshold: standard errors of the difference between the two windows."""
    no_spread: Alarm = Alarm(threshold=0.8)
    """Share of drawn groups in which the rewards of all samples are equal. Threshold: the share itself."""
    dark_share: Alarm = Alarm(threshold=0.2)
    """Share of dark pixels of drawn images, which rises or falls. Unit: the share."""
    edge_density: Alarm = Alarm(threshold=0.3)
    """Share of pixels at edges of drawn images, which rises or falls. Unit: share of the value at the beginning."""
    colour_entropy: Alarm = Alarm(threshold=0.3)
    """Entropy of the colours of drawn images, which rises or falls. Unit: share of the value at the beginning."""
    sharpness: Alarm = Alarm(threshold=0.5)
    """Variance of the Laplacian of drawn images, which rises or falls. Unit: share of the value at the beginning."""
    text_length: Alarm = Alarm(threshold=0.5)
    """Tokens of a text, which rise or fall. Unit: share of the value at the beginning."""
    repetition: Alarm = Alarm(threshold=0.1)
    """Share of three-word sequences of a text that occur in it before, which rises. Unit: the share."""
    prompt_copies: Alarm = Alarm(threshold=0.2)
    """Share of three-word sequences of a text that are those of the prompt, which rises. Unit: the share."""
    image_diversity: Alarm = Alarm(threshold=0.5)
    """Distance between the images of a group, which falls. Unit: share of the value at the beginning."""
    text_diversity: Alarm = Alarm(threshold=0.3)
    """Share of different texts among the reflections of a group that ask for a change, which falls. Unit: the share."""

    @field_validator("*", mode="before")
    @classmethod
    def thresholds_may_be_left_out(cls, given: Any, info: ValidationInfo) -> Any:
        """Fill in what the settings of an alarm leave out, so that `held_out: {do: stop}` keeps the threshold."""
        usual = cls.model_fields[str(info.field_name)].default
        return {**usual.model_dump(), **given} if isinstance(usual, Alarm) and isinstance(given, Mapping) else given

    @property
    def alarms(self) -> dict[str, Alarm]:
        """Name of each alarm -> its settings."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Alarm)}

    @property
    def given(self) -> list[str]:
        """Names of the settings that are not the usual ones. Alarms that are off are not among them."""
        unusual = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        return [name for name in unusual if name not in self.alarms or self.alarms[name].do != "off"]

"""Settings of sampling: how trajectories are sampled, guidance of images, and noisy denoising steps."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from irg_rl.guidance import is_active
from irg_rl.sections import Positive, Rate, Section, Share

STOP_PHRASE = "nothing to change"
"""The usual stop phrase. A recipe names another one in `sampling.stop_phrase`."""


class SamplingRecipe(Section):
    """How a trajectory is sampled in training and evaluation. Evaluation has its own temperature and guidance. There is
    no top-p or top-k, because RL must train the same distribution that it samples from."""

    turns: Annotated[int, Field(ge=1, le=16)] = 3
    """Largest number of images per trajectory. A reflection that says the stop phrase ends the trajectory earlier."""
    stop_phrase: Annotated[str, Field(min_length=1)] = Field(
        default=STOP_PHRASE, exclude_if=lambda phrase: phrase == STOP_PHRASE
    )
    """A reflection ends its trajectory if one of its sentences ends with this phrase, in upper or lower case. It must
    be the phrase that the model learned in SFT."""
    history: Literal["full", "last"] = "last"
    """What a refinement sees. full: all earlier turns. last: the prompt, the think text, the last image and the
    reflection on it."""
    temperature: Rate = 1.0
    max_text_tokens: Positive = 64
    points: Annotated[int, Field(ge=2)] = 12
    """Number of time points of the flow, including t = 0. Without guidance, drawing an image takes `points - 1` model
    calls."""
    shift: Rate = 1.0
    image_size: tuple[int, int] = (24, 24)
    """Height and width of drawn images in pixels."""
    system_prompt: str = ""


class GuidanceRecipe(Section):
    """Classifier-free guidance of images."""

    text_scale: float = Field(default=1.0, ge=1)
    """Scale of text guidance. 1: no text guidance."""
    image_scale: float = Field(default=1.0, ge=1)
    """Scale of image guidance, in refinements. 1: no image guidance. It has no effect without text guidance."""
    interval: tuple[float, float] = (0.0, 1.0)
    first_interval: tuple[float, float] = (0.4, 1.0)
    renorm: Literal["global", "channel", "text_channel"] = "text_channel"
    first_renorm: Literal["global", "channel", "text_channel"] = "global"
    renorm_min: Share = 0.0

    @property
    def is_on(self) -> bool:
        return self.text_scale > 1 or self.image_scale > 1

    def model_calls(self, times: Sequence[float], turn: int) -> int:
        """Return the number of model calls for drawing an image in turn `turn`. `times` has the flow time of each
        denoising step. Each step needs one call. A step with text guidance needs a second call. In a refinement with
        image guidance, a step with text guidance needs a third call."""
        interval = self.interval if turn else self.first_interval
        guided = sum(is_active(t, interval, self.text_scale) for t in times)
        return len(times) + guided * (2 if turn and self.image_scale > 1 else 1)


class NoiseRecipe(Section):
    """Which denoising steps are stochastic, and how much noise they add."""

    kind: Literal["flow_sde", "dance_sde", "cps"] = "flow_sde"
    noise_level: Rate = 0.7
    window: Literal["all", "first", "random", "scattered", "progressive"] = "random"
    window_size: Positive = 3
    window_range: tuple[int, int] = (0, 6)
    """The window of stochastic steps lies in this range of denoising steps: from the first number up to, but not
    including, the second number. Steps are counted from 0."""
    shared_start: bool = Field(default=False, exclude_if=lambda shared: not shared)
    """True, in RL: all images that a group draws in one turn start from the same noise (DanceGRPO, arXiv 2505.07818).
    The images of the group then differ only by the noise of the trained steps and by their texts."""

"""Classifier-free guidance with two conditions (text and image), as BAGEL combines them.

Shapes: x and velocities are [*B, N, D]. N is the number of latent tokens of *one* image, so a norm never covers two
images.
"""

from enum import StrEnum

from jaxtyping import Float
from torch import Tensor


class Renorm(StrEnum):
    """A setting that says how the norm of a guided velocity is limited. Guidance can make a velocity larger, so the
    guided velocity is scaled down to the norm of the unguided velocity. The setting makes two choices. The norms are
    computed over the whole image or for each token. And the scaling comes before or after image guidance."""

    GLOBAL = "global"  # one norm over the whole image
    CHANNEL = "channel"  # one norm for each token
    TEXT_CHANNEL = "text_channel"  # one norm for each token, after text guidance and before image guidance


def is_active(t: float, interval: tuple[float, float], text_scale: float) -> bool:
    """Return whether guidance is on at the flow time t. It is on if text_scale > 1 and low < t <= high, where (low,
    high) is `interval`. All these times are times after the timestep shift. If guidance is off, the velocities
    without text and without image need not be computed."""
    low, high = interval
    return text_scale > 1 and low < t <= high


def guide(
    v: Float[Tensor, "*B N D"],
    v_without_text: Float[Tensor, "*B N D"],
    v_without_image: Float[Tensor, "*B N D"] | None = None,
    *,
    text_scale: float,
    image_scale: float = 1.0,
    renorm: Renorm | str = Renorm.GLOBAL,
    renorm_min: float = 0.0,
) -> Float[Tensor, "*B N D"]:
    """Return the guided velocity. Text guidance comes first, then image guidance:

        w = u + s_t (v - u);   out = w_i + s_i (w - w_i) if s_i > 1, else w

    v is the velocity with the full context, u the velocity without the last text, and w_i the velocity without images.
    s_t is `text_scale` and s_i is `image_scale`. If s_i is at most 1, w_i is not needed and may be None.

    Then `out` is multiplied by |v| / |out|. This factor is clamped to [renorm_min, 1], so it never makes `out` larger.
    `renorm` says whether the norms are computed over the whole image or for each token. If `renorm` is `text_channel`,
    w is scaled in this way instead (before image guidance, for each token), and `out` is not scaled.

    Raises ValueError if text_scale <= 1. In this case BAGEL would silently skip image guidance, too.
    """
    renorm = Renorm(renorm)
    if text_scale <= 1:
        raise ValueError(f"text_scale {text_scale} guides nothing, images included: use a scale above 1 or no guidance")
    guided = v_without_text + text_scale * (v - v_without_text)
    if renorm is Renorm.TEXT_CHANNEL:
        guided = _shrunk(guided, v, (-1,), renorm_min)
    if image_scale > 1:
        if v_without_image is None:
            raise ValueError(f"image_scale {image_scale} needs the velocity without images")
        guided = v_without_image + image_scale * (guided - v_without_image)
    if renorm is Renorm.TEXT_CHANNEL:
        return guided
    return _shrunk(guided, v, (-1,) if renorm is Renorm.CHANNEL else (-2, -1), renorm_min)


def _shrunk(guided: Tensor, v: Tensor, dims: tuple[int, ...], smallest: float) -> Tensor:
    """Scale `guided` down to the norm of `v`: return guided * clamp(|v| / |guided|, smallest, 1). The norms are taken
    over the dimensions `dims`."""
    size, target = (value.float().pow(2).sum(dims, keepdim=True).sqrt() for value in (guided, v))
    return guided * (target / (size + 1e-8)).clamp(smallest, 1.0).to(guided.dtype)

"""Classifier-free guidance over two conditions, as BAGEL combines them.

Shapes: x and velocities [*B, N, D] with N the latent tokens of *one* image, so that a norm never spans two images.
"""

from enum import StrEnum

from jaxtyping import Float
from torch import Tensor


class Renorm(StrEnum):
    """Over which numbers the norm is taken when the guided velocity is scaled back to the norm of the unguided one."""

    GLOBAL = "global"  # over the whole image
    CHANNEL = "channel"  # over each token
    TEXT_CHANNEL = "text_channel"  # over each token, after text guidance and before image guidance


def is_active(t: float, interval: tuple[float, float], text_scale: float) -> bool:
    """Whether guidance is on: text_scale > 1 and low < t <= high, with t after the shift. If it is off, no branch needs
    a forward pass."""
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
    """The guided velocity. Text guidance comes first, then image guidance:

        w = u + s_t (v - u);   out = w_i + s_i (w - w_i) if s_i > 1, else w

    u is the velocity without the last text and w_i the velocity without images. `out` is then scaled by |v| / |out|,
    clamped to [renorm_min, 1], so it never grows; `renorm` says over which numbers the norm is taken. `text_channel`
    scales w instead and does not scale after the image step. Raises ValueError for text_scale <= 1, where BAGEL drops
    image guidance silently.
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
    """guided * clamp(|v| / |guided|, smallest, 1) with norms over `dims`."""
    size, target = (value.float().pow(2).sum(dims, keepdim=True).sqrt() for value in (guided, v))
    return guided * (target / (size + 1e-8)).clamp(smallest, 1.0).to(guided.dtype)

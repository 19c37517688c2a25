"""The clipped surrogate of PPO, for text tokens and denoising steps, and metrics of the clipping."""

from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    ratio: Float[Tensor, "*B"],
    advantages: Float[Tensor, "*B"],
    low: float,
    high: float,
    cap: float | None = None,
) -> Float[Tensor, "*B"]:
    """-min(r A, clip(r, 1 - low, 1 + high) A) per element. `cap` bounds the unclipped r from above (trl's `delta`)."""
    clipped = ratio.clamp(1 - low, 1 + high)
    if cap is not None:
        ratio = ratio.clamp(max=cap)
    return -(ratio * advantages).minimum(clipped * advantages)


def ratio_metrics(
    ratio: Float[Tensor, "*B"],
    log_ratio: Float[Tensor, "*B"],
    advantages: Float[Tensor, "*B"],
    low: float,
    high: float,
) -> dict[str, Tensor]:
    """Detached means over the elements.

    approx_kl = mean(log_ratio^2) / 2. clipfrac, clipfrac_low, clipfrac_high: share of ratios outside the range, for
    any advantage. clipped: share of elements whose gradient the clip removes. Without elements all are zero.
    """
    ratio, log_ratio, advantages = (
        value.detach().broadcast_to(ratio.shape) for value in (ratio, log_ratio, advantages)
    )
    below, above = ratio < 1 - low, ratio > 1 + high
    parts = {
        "approx_kl": 0.5 * log_ratio**2,
        "clipfrac": below | above,
        "clipfrac_low": below,
        "clipfrac_high": above,
        "clipped": (below & (advantages < 0)) | (above & (advantages > 0)),
        "ratio_mean": ratio,
    }
    count = max(ratio.numel(), 1)
    metrics = {name: part.to(ratio.dtype).sum() / count for name, part in parts.items()}
    return metrics | {"ratio_max": ratio.max() if ratio.numel() else ratio.new_zeros(())}

"""The clipped surrogate loss of PPO, for text tokens and denoising steps, and metrics of the clipping."""

from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    ratio: Float[Tensor, "*B"],
    advantages: Float[Tensor, "*B"],
    low: float,
    high: float,
    cap: float | None = None,
) -> Float[Tensor, "*B"]:
    """Return -min(r A, clip(r, 1 - low, 1 + high) A) for each element, where r is the ratio and A the advantage. If
    `cap` is given, the unclipped r is at most `cap` (this is trl's `delta`).
    """
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
    """Return metrics of the importance ratios over all elements, without gradient. The clip range is [1 - low, 1 +
    high]. If there are no elements, all metrics are zero.

        approx_kl: mean(log_ratio^2) / 2
        clipfrac: share of ratios outside the clip range, whatever the advantage is
        clipfrac_low, clipfrac_high: share of ratios below the clip range, and above it
        clipped: share of elements whose gradient is removed by the clip
        ratio_mean, ratio_max: mean and maximum of the ratios
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

"""Policy losses on denoising steps.

Shapes: B any batch dims (samples, steps, or both), N latent tokens, D channels. Means, velocities and x have shape
[*B, N, D]. Times, standard deviations, log-probabilities, advantages and losses have shape [*B]. Losses have one value
per element. `aggregate` divides their sum by a denominator that is summed over all micro-batches and ranks.

`std` is always the standard deviation of the step, which includes sqrt(-dt), as `flow.transition` returns it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.flow import over_latent
from irg_rl.losses.clip import clipped_surrogate


def log_ratio(
    logp: Float[Tensor, "*B"],
    logp_old: Float[Tensor, "*B"],
) -> Float[Tensor, "*B"]:
    """Log importance ratio of a step. It is a mean over the latent's dims if the log-probabilities are such means."""
    return logp - logp_old.detach()


def guarded_log_ratio(
    logp: Float[Tensor, "*B"],
    logp_old: Float[Tensor, "*B"],
    mean: Float[Tensor, "*B N D"],
    mean_old: Float[Tensor, "*B N D"],
    std: Float[Tensor, "*B"],
) -> Float[Tensor, "*B"]:
    """RatioNorm of GRPO-Guard (arXiv 2510.22319): (log ratio + M[(mean - mean_old)^2] / (2 std^2)) * std.

    For mean log-probabilities of Gaussian steps this is mean(noise * (mean - mean_old)). It is centred at 0 and has the
    same scale for every step, so one clip range works for all steps. It needs the sampler's stored `mean_old`.
    """
    drift = over_latent((mean - mean_old.detach()) ** 2, std.ndim)
    return log_ratio(logp, logp_old) * std + drift / (2 * std)


def policy_loss(
    log_ratio: Float[Tensor, "*B"],
    advantages: Float[Tensor, "*B"],
    clip_range: float | tuple[float, float],
) -> Float[Tensor, "*B"]:
    """Clipped loss of every step (Flow-GRPO, DanceGRPO): -min(r A, clip(r, 1 - low, 1 + high) A)."""
    low, high = _bounds(clip_range)
    return clipped_surrogate(log_ratio.exp(), advantages, low, high)


def mean_kl(
    mean: Float[Tensor, "*B N D"],
    mean_ref: Float[Tensor, "*B N D"],
    std: Float[Tensor, "*B"],
) -> Float[Tensor, "*B"]:
    """KL between two Gaussian steps of equal std, per latent dim: M[(mean - mean_ref)^2] / (2 std^2).

    Flow-GRPO divides by a^2 without |dt|, which gives |dt| times this value. R3 leaves out the 1/2.
    """
    return over_latent((mean - mean_ref.detach()) ** 2, std.ndim) / (2 * std**2)


def velocity_mse(
    v: Float[Tensor, "*B N D"],
    v_ref: Float[Tensor, "*B N D"],
    batch_dims: int = 1,
) -> Float[Tensor, "*B"]:
    """M[(v - v_ref)^2]: a penalty against drift that is equally strong at every step (UniGRPO, DiffusionNFT)."""
    return over_latent((v - v_ref.detach()) ** 2, batch_dims)


def aggregate(
    loss: Float[Tensor, "*B"],
    denominator: Tensor | float,
) -> Float[Tensor, ""]:
    """Sum divided by the global `denominator`, the number of trained (image, step) pairs of the optimizer step."""
    return loss.sum() / torch.as_tensor(denominator).clamp(min=1)


def _bounds(clip_range: float | tuple[float, float]) -> tuple[float, float]:
    return clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)

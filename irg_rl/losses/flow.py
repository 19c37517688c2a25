"""Policy losses on the denoising steps of images.

Shapes: B are any batch dimensions (samples, steps, or both), N latent tokens, D channels. Means, velocities and x have
the shape [*B, N, D]. Times, standard deviations, log-probabilities, advantages and losses have the shape [*B], so a
loss has one value for each step. `aggregate` divides the sum of the losses by a denominator that is summed over all
micro-batches and ranks.

M[...] in formulas is the mean over the dimensions N and D. `std` is always the standard deviation of the step. It
includes sqrt(-dt), as in the result of `flow.transition`.
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
    """Return the log importance ratio of each step: logp - logp_old. If the log-probabilities are averaged (and not
    summed) over the elements of the latent, the log ratio is averaged in the same way.
    """
    return logp - logp_old.detach()


def guarded_log_ratio(
    logp: Float[Tensor, "*B"],
    logp_old: Float[Tensor, "*B"],
    mean: Float[Tensor, "*B N D"],
    mean_old: Float[Tensor, "*B N D"],
    std: Float[Tensor, "*B"],
) -> Float[Tensor, "*B"]:
    """Return the log ratio with the RatioNorm of GRPO-Guard (arXiv 2510.22319): (log ratio + M[(mean - mean_old)^2] /
    (2 std^2)) * std. M is the mean over the elements of the latent. `mean_old` is the mean of the denoising step under
    the old policy. The sampler has stored it.

    If the log-probabilities are averaged over the elements of the latent, the result is M[noise * (mean - mean_old)].
    Here noise is the standard-normal noise of the sampled step. Then the result is centred at 0 and has the same scale
    for every denoising step, so one clip range works for all steps.
    """
    drift = over_latent((mean - mean_old.detach()) ** 2, std.ndim)
    return log_ratio(logp, logp_old) * std + drift / (2 * std)


def policy_loss(
    log_ratio: Float[Tensor, "*B"],
    advantages: Float[Tensor, "*B"],
    clip_range: float | tuple[float, float],
) -> Float[Tensor, "*B"]:
    """Return the clipped loss of every denoising step (Flow-GRPO, DanceGRPO): -min(r A, clip(r, 1 - low, 1 + high) A),
    where r is the importance ratio and A the advantage. `clip_range` is the pair (low, high). One number stands for
    both low and high."""
    low, high = _bounds(clip_range)
    return clipped_surrogate(log_ratio.exp(), advantages, low, high)


def mean_kl(
    mean: Float[Tensor, "*B N D"],
    mean_ref: Float[Tensor, "*B N D"],
    std: Float[Tensor, "*B"],
) -> Float[Tensor, "*B"]:
    """Return the KL divergence between two Gaussian steps with the same std, averaged over the elements of the latent:
    M[(mean - mean_ref)^2] / (2 std^2). M is the mean over the elements of the latent.

    Other papers scale it differently. Here std^2 is the squared noise coefficient of the sampler, times |dt|. Flow-GRPO
    divides by the squared noise coefficient alone, which gives |dt| times the value here. R3 leaves out the factor 1/2.
    """
    return over_latent((mean - mean_ref.detach()) ** 2, std.ndim) / (2 * std**2)


def velocity_mse(
    v: Float[Tensor, "*B N D"],
    v_ref: Float[Tensor, "*B N D"],
    batch_dims: int = 1,
) -> Float[Tensor, "*B"]:
    """Return M[(v - v_ref)^2], where M is the mean over the elements of the latent. This is a penalty on the distance
    between the policy's velocity `v` and the reference model's velocity `v_ref`. It is equally strong at every
    denoising step (UniGRPO, DiffusionNFT). The first `batch_dims` dimensions are batch dimensions, over which no mean
    is taken."""
    return over_latent((v - v_ref.detach()) ** 2, batch_dims)


def aggregate(
    loss: Float[Tensor, "*B"],
    denominator: Tensor | float,
) -> Float[Tensor, ""]:
    """Return the sum of the losses divided by `denominator`, the number of trained (image, step) pairs in the whole
    optimizer step. A denominator below 1 is replaced by 1.
    """
    return loss.sum() / torch.as_tensor(denominator).clamp(min=1)


def _bounds(clip_range: float | tuple[float, float]) -> tuple[float, float]:
    return clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)

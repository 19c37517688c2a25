"""Policy losses on sampled text tokens. Names and numbers are those of trl.

Shapes: B text segments (rows), T tokens, right-padded; `mask` is True on sampled tokens. Losses have one value per
token. `aggregate` divides their sum by a denominator that the caller has summed over all micro-batches and ranks. So a
batch gives the same gradient however it is split.
"""

from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from irg_rl.losses.clip import clipped_surrogate


class TextLoss(StrEnum):
    GRPO = "grpo"  # mean over a row's tokens, then over rows (arXiv 2402.03300)
    BNPO = "bnpo"  # mean over tokens of the batch
    DR_GRPO = "dr_grpo"  # sum over tokens / (rows * longest allowed text) (arXiv 2503.20783)
    DAPO = "dapo"  # sum over tokens / tokens of the whole optimizer step (arXiv 2503.14476)
    CISPO = "cispo"  # the weight is clipped, the gradient is not (arXiv 2506.13585); aggregated as dapo


class Importance(StrEnum):
    TOKEN = "token"
    SEQUENCE = "sequence"  # GSPO, arXiv 2507.18071: the geometric mean of the row's token ratios


def log_importance(
    logp: Float[Tensor, "B T"],
    logp_old: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: Importance | str = Importance.TOKEN,
) -> Float[Tensor, "B T"]:
    """Log of the importance ratio of every token, 0 where masked. "sequence": all tokens of a row have the same
    value."""
    log_ratio = (logp - logp_old).masked_fill(~mask.bool(), 0.0)
    if Importance(level) is Importance.TOKEN:
        return log_ratio
    per_row = log_ratio.sum(-1) / mask.sum(-1).clamp(min=1)
    return per_row.unsqueeze(-1).expand_as(log_ratio)


def k3(logp: Float[Tensor, "*B"], logp_ref: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Schulman's k3 estimate of KL(policy || reference) per token: exp(d) - d - 1, d = logp_ref - logp.

    It is never clamped. A clamp would remove the gradient where the policy has moved furthest.
    """
    difference = logp_ref - logp
    return difference.exp() - difference - 1


def policy_loss(
    logp: Float[Tensor, "B T"],
    logp_old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    loss_type: TextLoss | str = TextLoss.DAPO,
    level: Importance | str = Importance.TOKEN,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    delta: float | None = None,
    beta: float = 0.0,
    logp_ref: Float[Tensor, "B T"] | None = None,
    kl_correction: bool = True,
    mismatch: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Loss of every token, before aggregation.

    grpo, bnpo, dr_grpo, dapo: -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A), where `delta` limits the unclipped
    r. cispo: -min(r, epsilon_high) A logp, where the weight has no gradient; here epsilon_high is the limit itself (5,
    not .28). `beta` adds beta * k3 to the reference. With `kl_correction` this term is multiplied by r, which makes its
    gradient unbiased off-policy. `mismatch` (from `mismatch_weight`) multiplies only the policy term.
    """
    loss_type, mask = TextLoss(loss_type), mask.bool()
    if advantages.ndim == 1:
        advantages = advantages.unsqueeze(-1)
    ratio = log_importance(logp, logp_old, mask, level).exp()
    if loss_type is TextLoss.CISPO:
        loss = -ratio.clamp(max=epsilon_high).detach() * advantages * logp
    else:
        loss = clipped_surrogate(ratio, advantages, epsilon, epsilon_high, delta)
    if mismatch is not None:
        loss = loss * mismatch
    if beta != 0.0:
        if logp_ref is None:
            raise ValueError(f"a KL weight beta={beta} needs the reference's log-probabilities: pass logp_ref")
        kl = k3(logp, logp_ref.where(mask, logp.detach()))  # NaN in the padding would give a gradient of 0 * NaN
        loss = loss + beta * (kl * ratio if kl_correction else kl)
    return loss.masked_fill(~mask, 0.0)


def denominator(mask: Bool[Tensor, "B T"], loss_type: TextLoss | str, max_length: int | None = None) -> Tensor:
    """Contribution of this batch to the denominator of `aggregate`: rows, rows * max_length, or tokens. Sum it over all
    micro-batches and ranks of one optimizer step. Rows without tokens do not count."""
    loss_type, mask = TextLoss(loss_type), mask.bool()
    rows = mask.any(-1).sum()
    if loss_type is TextLoss.GRPO:
        return rows
    if loss_type is TextLoss.DR_GRPO:
        if max_length is None:
            raise ValueError("dr_grpo divides by the longest allowed text: pass max_length")
        return rows * max_length
    return mask.sum()


def aggregate(
    loss: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    loss_type: TextLoss | str,
    denominator: Tensor | float,
) -> Float[Tensor, ""]:
    """Sum over tokens (grpo: over row means) divided by the global `denominator`, which is at least 1."""
    mask = mask.bool()
    loss = loss.masked_fill(~mask, 0.0)
    if TextLoss(loss_type) is TextLoss.GRPO:
        loss = loss.sum(-1) / mask.sum(-1).clamp(min=1)
    return loss.sum() / torch.as_tensor(denominator).clamp(min=1)


def mismatch_weight(
    logp_old: Float[Tensor, "B T"],
    logp_sampled: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    level: Importance | str = Importance.TOKEN,
    highest: float = 2.0,
    lowest: float | None = None,
    drop: bool = False,
) -> Float[Tensor, "B T"]:
    """Weight that corrects for differences between the log-probabilities of sampler and learner.

    exp(logp_old - logp_sampled), clipped to [lowest, highest]. With `drop`, weights outside this range become 0
    instead. "sequence": the product over the row, which is the true density ratio. (The policy ratio uses the geometric
    mean.)
    """
    log_ratio = (logp_old - logp_sampled).masked_fill(~mask.bool(), 0.0).detach()
    if Importance(level) is Importance.SEQUENCE:
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    weight = log_ratio.exp()
    if not drop:
        return weight.clamp(min=lowest, max=highest)
    outside = (weight > highest) if lowest is None else (weight > highest) | (weight < lowest)
    return weight.masked_fill(outside, 0.0)

"""Policy losses on sampled text tokens. The names and the values of the losses are the same as in the library trl.

Shapes: B text segments (rows), T tokens, padded on the right. `mask` is True on sampled tokens. Losses have one value
for each token. `aggregate` divides their sum by a denominator that the caller has summed over all micro-batches and
ranks. So a batch gives the same gradient however it is split.
"""

from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from irg_rl.losses.clip import clipped_surrogate


class TextLoss(StrEnum):
    GRPO = "grpo"  # mean over the tokens of each row, then mean over rows (arXiv 2402.03300)
    BNPO = "bnpo"  # mean over all tokens of the batch
    DR_GRPO = "dr_grpo"  # sum over tokens / (rows * longest allowed text) (arXiv 2503.20783)
    DAPO = "dapo"  # sum over tokens / tokens of the whole optimizer step (arXiv 2503.14476)
    CISPO = "cispo"  # the weight is clipped, the gradient is not (arXiv 2506.13585); aggregated like dapo


class Importance(StrEnum):
    TOKEN = "token"
    SEQUENCE = "sequence"  # GSPO, arXiv 2507.18071: the geometric mean of the token ratios of a row


def log_importance(
    logp: Float[Tensor, "B T"],
    logp_old: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: Importance | str = Importance.TOKEN,
) -> Float[Tensor, "B T"]:
    """Return the log importance ratio of every token. It is 0 where `mask` is False. With level "sequence" all tokens
    of a row (one text) have the same value: the mean over the tokens of the row.
    """
    log_ratio = (logp - logp_old).masked_fill(~mask.bool(), 0.0)
    if Importance(level) is Importance.TOKEN:
        return log_ratio
    per_row = log_ratio.sum(-1) / mask.sum(-1).clamp(min=1)
    return per_row.unsqueeze(-1).expand_as(log_ratio)


def k3(logp: Float[Tensor, "*B"], logp_ref: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Return Schulman's k3 estimate of KL(policy || reference) for each token: exp(d) - d - 1, with d = logp_ref -
    logp.

    The estimate is never clamped, because a clamp would remove the gradient where the policy has moved furthest.
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
    """Return the loss of every token, before aggregation. Here r is the importance ratio (see `log_importance`, which
    explains `level`) and A is the advantage.

    If `loss_type` is grpo, bnpo, dr_grpo or dapo, the loss is -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A). If
    `delta` is given, the unclipped r is at most `delta`.

    If `loss_type` is cispo, the loss is -min(r, epsilon_high) A logp, where the weight min(r, epsilon_high) has no
    gradient. Here epsilon_high is the limit of r itself (for example 5), and not a distance from 1.

    If `beta` is not 0, beta * k3 is added. This is a penalty on the distance to the reference model, and `logp_ref` has
    the log-probabilities of that model. With `kl_correction` this penalty is multiplied by r, so its gradient is
    unbiased off-policy. `mismatch` (from `mismatch_weight`) multiplies only the policy loss, not the penalty.
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
        kl = k3(logp, logp_ref.where(mask, logp.detach()))  # a NaN in the padding would give the gradient 0 * NaN
        loss = loss + beta * (kl * ratio if kl_correction else kl)
    return loss.masked_fill(~mask, 0.0)


def denominator(mask: Bool[Tensor, "B T"], loss_type: TextLoss | str, max_length: int | None = None) -> Tensor:
    """Return what this batch adds to the denominator of `aggregate`. For grpo this is the number of rows (texts). For
    dr_grpo it is rows * max_length, where `max_length` is the longest allowed text in tokens. For other losses it is
    the number of tokens. Rows without tokens do not count. The caller must sum this over all micro-batches and ranks of
    one optimizer step."""
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
    """Return the sum of the token losses, divided by `denominator`. The denominator is the sum of what the function
    `denominator` returned for all micro-batches and ranks. A value below 1 is replaced by 1. For grpo, the losses of
    each row (one text) are first averaged over its tokens, and then these averages are summed.
    """
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
    """Return one weight per token that corrects for the difference between the log-probabilities of the learner
    (`logp_old`) and of the sampler (`logp_sampled`).

    The weight of a token is exp(logp_old - logp_sampled). With level "sequence", all tokens of a row (one text) have
    the same weight instead: the product of these weights over the row. This is the true density ratio of the text. (In
    contrast, the importance ratio of the policy is the geometric mean over the row.)

    Then the weights are clipped to [lowest, highest]. If `lowest` is None, there is no lower limit. With `drop`, a
    weight outside this range becomes 0 instead of being clipped.
    """
    log_ratio = (logp_old - logp_sampled).masked_fill(~mask.bool(), 0.0).detach()
    if Importance(level) is Importance.SEQUENCE:
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    weight = log_ratio.exp()
    if not drop:
        return weight.clamp(min=lowest, max=highest)
    outside = (weight > highest) if lowest is None else (weight > highest) | (weight < lowest)
    return weight.masked_fill(outside, 0.0)

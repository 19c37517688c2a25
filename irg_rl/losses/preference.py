"""Losses that need no log-probabilities from the sampler: DPO on text and on flow matching, DiffusionNFT and AWM.

Shapes: P pairs, B samples, T tokens, N latent tokens, D channels. Losses have one value for each pair or sample. M[...]
in formulas is the mean over N and D.

A pair has a chosen item and a rejected item. The policy and the reference model each have a preference for the chosen
item over the rejected item. The margin of the pair is the preference of the policy minus the preference of the
reference model. In the margin of two images, the squared errors are already averaged over N and D. The average over
pairs comes after the log-sigmoid: the caller computes it with `flow.aggregate` and a global count. (Averaging the
errors over pairs before the log-sigmoid would couple the pairs: diffusers #6702.)
"""

from enum import StrEnum

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from irg_rl.flow import data_estimate, interpolate, over_latent


class PreferenceLoss(StrEnum):
    SIGMOID = "sigmoid"  # DPO, arXiv 2305.18290
    IPO = "ipo"  # arXiv 2310.12036; the text margin for this loss is a mean over tokens
    HINGE = "hinge"  # SLiC, arXiv 2305.10425


class MatchingWeight(StrEnum):
    UNIFORM = "uniform"
    T = "t"
    T_SQUARED = "t2"
    HUBER = "huber"
    GHUBER = "ghuber"


def token_margin(
    logp_chosen: Float[Tensor, "P T"],
    logp_chosen_ref: Float[Tensor, "P T"],
    mask_chosen: Bool[Tensor, "P T"],
    logp_rejected: Float[Tensor, "P T2"],
    logp_rejected_ref: Float[Tensor, "P T2"],
    mask_rejected: Bool[Tensor, "P T2"],
    *,
    average: bool = False,
) -> Float[Tensor, "P"]:
    """Return the margin of each pair of texts: log(policy / reference) of the chosen text minus log(policy / reference)
    of the rejected text. Each of these two values is a sum over the tokens with mask True. If `average` is true, each
    is a mean over these tokens instead. The loss ipo needs this.

    The masks should be False at tokens that both texts share. Such tokens would cancel only if they were computed in
    the same context.
    """
    chosen = _text_log_ratio(logp_chosen, logp_chosen_ref, mask_chosen, average)
    return chosen - _text_log_ratio(logp_rejected, logp_rejected_ref, mask_rejected, average)


def noised_pair(
    chosen: Float[Tensor, "P N D"],
    rejected: Float[Tensor, "P N D"],
    noise: Float[Tensor, "P N D"],
    t: Float[Tensor, "P"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add the same noise at the same flow time t to both images of each pair. Return four tensors: the noisy chosen
    image, the noisy rejected image, the target velocity of the chosen image, and the target velocity of the rejected
    image. A target velocity is noise - image.

    With different noise, the model's errors on the two images would differ more by chance than by preference.
    """
    if not chosen.shape == rejected.shape == noise.shape:
        shapes = [tuple(value.shape) for value in (chosen, rejected, noise)]
        raise ValueError(f"a pair shares its noise, so chosen, rejected and noise need one shape, got {shapes}")
    return interpolate(chosen, noise, t), interpolate(rejected, noise, t), noise - chosen, noise - rejected


def flow_margin(
    v_chosen: Float[Tensor, "P N D"],
    v_chosen_ref: Float[Tensor, "P N D"],
    target_chosen: Float[Tensor, "P N D"],
    v_rejected: Float[Tensor, "P N D"],
    v_rejected_ref: Float[Tensor, "P N D"],
    target_rejected: Float[Tensor, "P N D"],
) -> Float[Tensor, "P"]:
    """Return the margin of Diffusion-DPO (arXiv 2311.12908) for each pair of images, with the velocity as the
    regression target: -1/2 [(E - E_ref) of the chosen image - (E - E_ref) of the rejected image]. Here E = M[(v -
    target)^2] is the error of the policy, and M is the mean over the elements of the latent. E_ref is the same error of
    the reference model."""
    chosen = _error(v_chosen, target_chosen) - _error(v_chosen_ref, target_chosen).detach()
    rejected = _error(v_rejected, target_rejected) - _error(v_rejected_ref, target_rejected).detach()
    return -0.5 * (chosen - rejected)


def preference_loss(
    margin: Float[Tensor, "P"], beta: float, kind: PreferenceLoss | str = PreferenceLoss.SIGMOID
) -> Float[Tensor, "P"]:
    """Return the loss of each pair (a chosen and a rejected item) from its margin m. The margin is the preference of
    the policy for the chosen item over the rejected item, minus the same preference of the reference model. `beta`
    scales the margin. `kind` selects one of these losses:

        sigmoid: -log sigmoid(beta m)
        hinge: max(0, 1 - beta m)
        ipo: (m - 1 / (2 beta))^2
    """
    kind = PreferenceLoss(kind)
    if kind is PreferenceLoss.SIGMOID:
        return -logsigmoid(beta * margin)
    if kind is PreferenceLoss.HINGE:
        return (1 - beta * margin).relu()
    return (margin - 1 / (2 * beta)) ** 2


def nft_optimality(advantages: Float[Tensor, "B"], bound: float) -> Float[Tensor, "B"]:
    """Convert each advantage A to the probability r that the sample is good: r = clamp(A / (2 bound) + 1/2, 0, 1).
    `bound` is the advantage from which on r is 1; from -bound down, r is 0."""
    return (advantages / (2 * bound) + 0.5).clamp(0, 1)


def nft_loss(
    v: Float[Tensor, "B N D"],
    v_old: Float[Tensor, "B N D"],
    x_t: Float[Tensor, "B N D"],
    data: Float[Tensor, "B N D"],
    t: Float[Tensor, "B"],
    optimality: Float[Tensor, "B"],
    *,
    beta: float = 1.0,
    bound: float = 5.0,
) -> Float[Tensor, "B"]:
    """Return the loss of DiffusionNFT (arXiv 2509.16117) for each sample. It is a regression towards good samples and
    away from bad samples. The model input `x_t` is `data` with fresh noise at time t. `data` was sampled with the old
    policy, and v_old is the velocity of this policy.

    The two velocities v+ = beta v + (1 - beta) v_old and v- = (1 + beta) v_old - beta v each predict a clean sample. L+
    and L- are the mean squared errors of these two predictions, each divided by the mean absolute error of the same
    prediction. No gradient flows through the divisor. The loss is bound * (r L+ + (1 - r) L-) / beta, where r is
    `optimality`.
    """
    v_old = v_old.detach()
    positive = _self_normalised(data_estimate(x_t, beta * v + (1 - beta) * v_old, t) - data)
    negative = _self_normalised(data_estimate(x_t, (1 + beta) * v_old - beta * v, t) - data)
    return bound * (optimality * positive + (1 - optimality) * negative) / beta


def awm_log_prob(
    v: Float[Tensor, "B N D"],
    target: Float[Tensor, "B N D"],
    t: Float[Tensor, "B"],
    weight: MatchingWeight | str = MatchingWeight.UNIFORM,
    power: float = 0.25,
) -> Float[Tensor, "B"]:
    """Return the log-probability that AWM (arXiv 2509.25050) uses for each sample: the negative weighted flow-matching
    error. It is an input for `flow.policy_loss`.

    Let E = M[(v - target)^2], where M is the mean over the elements of the latent. The result depends on `weight`:

        uniform, t, t2: -E w(t), with w = 1, t or t^2
        huber: -(sqrt(E + 1e-10) - 1e-5) t
        ghuber: -((E + 1e-10)^p - 1e-10^p) t / p, where p is `power`

    The old and the new policy must get the same noise and time.
    """
    weight, error = MatchingWeight(weight), _error(v, target)
    if weight is MatchingWeight.UNIFORM:
        return -error
    if weight is MatchingWeight.T:
        return -error * t
    if weight is MatchingWeight.T_SQUARED:
        return -error * t**2
    if weight is MatchingWeight.HUBER:
        return -((error + 1e-10).sqrt() - 1e-5) * t
    return -((error + 1e-10) ** power - 1e-10**power) * t / power


def _text_log_ratio(logp: Tensor, logp_ref: Tensor, mask: Tensor, average: bool) -> Tensor:
    mask = mask.bool()
    total = (logp - logp_ref.detach()).masked_fill(~mask, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1) if average else total


def _error(v: Tensor, target: Tensor) -> Tensor:
    return over_latent((v - target) ** 2, 1)


def _self_normalised(difference: Tensor) -> Tensor:
    size = over_latent(difference.detach().abs().double(), 1).clamp(min=1e-5).to(difference.dtype)
    return over_latent(difference**2, 1) / size

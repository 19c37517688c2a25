"""The credit schemes, which turn the values of a group's images into advantages."""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

from irg_rl.credit.nodes import (
    Advantages,
    ForkBranch,
    Node,
    Place,
    Sample,
    broadcast,
    enter,
    node_values,
    per_place,
    populations,
)
from irg_rl.credit.scheme import CreditScheme, NormalisedOptions, RightOptions
from irg_rl.credit.statistics import mean, normalise, normalised, scaled, slope
from irg_rl.sections import Share, Weight
from irg_rl.trajectory import Modality


def trajectory(samples: list[Sample], options: NormalisedOptions) -> Advantages:
    """GRPO: every segment gets the reward of the final image, normalised over the group. With forks, it is normalised
    over the branches of a fork, and holds for the segments up to the next fork."""
    table: Advantages = [{} for _ in samples]
    ways: dict[int, dict[ForkBranch, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples):
        for branch in dict.fromkeys(sample.branches.values()):
            ways[branch[0]][branch].append(i)
    finals = [sample.q[-1] for sample in samples]
    for own in ways.values():
        nodes = [(branch[1], members) for branch, members in own.items()]
        advantages = normalised(node_values(samples, nodes, finals), options)
        for advantage, (branch, members) in zip(advantages, own.items()):
            for i in members:
                table[i].update({place: advantage for place, taken in samples[i].branches.items() if taken == branch})
    return table


class TurnOptions(NormalisedOptions):
    gamma: Share = 1.0
    """Discount of the gains of later turns."""


def turn(samples: list[Sample], options: TurnOptions) -> Advantages:
    """Return-to-go of the gains, sum_j gamma^(j-k) (q_j - q_{j-1}), normalised per place.

    With gamma = 1 the sum is q_last - q_{k-1}. So a bad first image brings no advantage.
    """

    def value(sample: Sample, place: Place) -> float:
        return fsum(options.gamma ** (j - place[0]) * sample.gain(j) for j in range(place[0], len(sample.q)))

    return per_place(samples, value, lambda values: normalised(values, options))


class ImprovementOptions(NormalisedOptions, RightOptions):
    pass


def improvement(samples: list[Sample], options: ImprovementOptions) -> Advantages:
    """R3: q_0 for the first turn, then q_k - q_{k-1}. If the last image is already right: 1 for a stop, otherwise 0."""

    def value(sample: Sample, place: Place) -> float:
        k = place[0]
        if k and sample.is_right(k - 1):
            return float(k >= len(sample.q))
        return sample.gain(k)

    return per_place(samples, value, lambda values: normalised(values, options))


class VerifierGAEOptions(NormalisedOptions):
    lam: Share = 1.0
    """Lambda, the weight of later deltas. Only 1 is unbiased for the final reward."""
    price: Weight = 0.0
    """Cost of every image after the first one, in units of the combined reward."""
    coefficient: Share | None = None
    """Share of q_{k-1} in the baseline. 0: leave-one-out GRPO on the final reward. 1: the plain difference. null:
    fitted on the other siblings, without the sample itself."""


def verifier_gae(samples: list[Sample], options: VerifierGAEOptions) -> Advantages:
    """Generalised advantage estimation without a value network: the score of the previous image is the state value.

    delta_k = q_k - q_{k-1} - price of an edit (0 for a stop), G_k = sum_j lambda^(j-k) delta_j, and the target is Y_k =
    q_{k-1} + G_k. A_k = Y_k - (linear prediction of Y_k from q_{k-1}). The prediction uses the siblings that are still
    active at the place, without the sample itself. With lambda = 1, Y_k is the final reward minus costs, so every
    coefficient is unbiased. Below 1, errors of the verifier cause a bias. Directly after a fork, q_{k-1} is the same
    for all siblings, and the prediction is the mean of the others.
    """
    table: Advantages = [{} for _ in samples]
    for (place, _), nodes in populations(samples).items():
        enter(table, place, nodes, _against_prediction(samples, place, nodes, options))
    return table


def _against_prediction(
    samples: list[Sample], place: Place, nodes: list[Node], options: VerifierGAEOptions
) -> list[float]:
    start = [samples[members[0]].value(place[0] - 1) if place[0] else 0.0 for _, members in nodes]
    gains = node_values(samples, nodes, [_discounted(sample, place[0], options) for sample in samples])
    target = [q + gain for q, gain in zip(start, gains)]
    if len(nodes) < 2:
        return [0.0] * len(nodes)
    out = []
    for i, (q, y) in enumerate(zip(start, target)):
        others_q, others_y = start[:i] + start[i + 1 :], target[:i] + target[i + 1 :]
        c = slope(others_q, others_y) if options.coefficient is None else options.coefficient
        out.append(y - mean(others_y) - c * (q - mean(others_q)))
    return scaled(out, options)


def _discounted(sample: Sample, k: int, options: VerifierGAEOptions) -> float:
    """sum_j lambda^(j-k) delta_j from turn k to the last image. 0 for a stop. The first image has no price."""
    turns = range(k, len(sample.q))
    return fsum(options.lam ** (j - k) * (sample.gain(j) - (options.price if j else 0.0)) for j in turns)


def umm(samples: list[Sample], options: RightOptions) -> Advantages:
    """Reward and constants of UMM-Reflection. Only turns after the first are trained."""
    rewards = []
    for sample in samples:
        gains = [sample.gain(k) for k in range(1, len(sample.q))]
        rises = [g for g in gains if g > 0]
        repeated = fsum(rises) - max(rises, default=0.0)
        losses = fsum(-g for g in gains if g < 0)
        premature = 0.5 * (sample.stopped and not sample.is_right(len(sample.q) - 1))
        rewards.append(sample.q[-1] + 0.3 * fsum(rises) + 0.3 * repeated - 0.5 * losses - premature)
    return broadcast(samples, normalise(rewards, floor=0.1, clip=1.0), first_turn=1)


def umm_penalty(table: Advantages, samples: Sequence[Sample], options: RightOptions) -> None:
    """Penalty of UMM-Reflection: if a text was cut off, all segments of the trajectory get min(A, 0) - .5."""
    for row, sample in zip(table, samples):
        if sample.malformed:
            row.update({place: min(advantage, 0.0) - 0.5 for place, advantage in row.items()})


def no_improve_clamp(samples: list[Sample], options: NormalisedOptions) -> Advantages:
    """AlphaGRPO: max(q_last - q_0, 0), so all failures are equal. Only turns after the first are trained, and nothing
    if no sibling improved."""
    gains = [max(sample.q[-1] - sample.q[0], 0.0) for sample in samples]
    if not any(gains):
        return [{} for _ in samples]
    return broadcast(samples, normalised(gains, options), first_turn=1)


class FactorisedOptions(NormalisedOptions):
    truth: Weight = 1.0
    """Weight of a reflection's own scores (scorers with `of: reflection`) beside its outcome."""
    edit: Weight = 1.0
    """Weight of an edit's own scores (scorers with `of: edit`) beside the reward of the image."""
    outcome: Weight = 1.0
    """Weight of the final reward in the advantage of a text, and of its own reward in that of an image."""


def factorised(samples: list[Sample], options: FactorisedOptions) -> Advantages:
    """Each segment answers for what it controls. A text: the final reward, and its own truth. An image: its own reward,
    and whether it did the edit that it was asked for.

        A = outcome * norm(final or own reward) + weight * norm(own score)

    Both terms are normalised on their own, over the siblings that part at the same fork. So the truth term of a text
    does not depend on how the image after it turned out. A segment without siblings is not trained: nothing says
    whether it was better than another.
    """
    table: Advantages = [{} for _ in samples]
    for (place, _), nodes in populations(samples).items():
        if len(nodes) < 2:
            continue
        turn, modality = place
        is_text = modality is Modality.TEXT
        rewards = [s.q[-1] if is_text or turn >= len(s.q) else s.q[turn] for s in samples]
        total = [options.outcome * a for a in normalised(node_values(samples, nodes, rewards), options)]
        scored = [(node, samples[node[1][0]].scores.get(place)) for node in nodes]
        own = [score for _, score in scored if score is not None]
        if len(own) == len(nodes):
            weight = options.truth if is_text else options.edit
            total = [a + weight * b for a, b in zip(total, normalised(own, options))]
        enter(table, place, nodes, total)
    return table


TRAJECTORY = CreditScheme(trajectory)
TURN = CreditScheme(turn, TurnOptions)
VERIFIER_GAE = CreditScheme(verifier_gae, VerifierGAEOptions)
IMPROVEMENT = CreditScheme(improvement, ImprovementOptions, asks_if_right=True)
UMM = CreditScheme(
    umm, RightOptions, penalise=umm_penalty, whole_trajectories=True, asks_if_right=True, first_trained_turn=1
)
NO_IMPROVE_CLAMP = CreditScheme(no_improve_clamp, whole_trajectories=True, first_trained_turn=1)
FACTORISED = CreditScheme(factorised, FactorisedOptions, uses_segment_scores=True)

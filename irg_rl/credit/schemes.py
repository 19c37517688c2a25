"""The built-in credit schemes. Each computes advantages from the rewards of a group's images.

In formulas, q_k is the combined reward of the image of turn k. q_last is the combined reward of the final image. Before
the first image the value q_{-1} is 0.
"""

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
    """Compute the advantages of GRPO. Without forks, every segment of a sample gets the reward of the sample's final
    image, normalised over the group.

    At a fork, samples with the same beginning separate into branches. A branch consists of the segments from its fork
    to the next fork. With forks, every segment gets the value of its branch instead, normalised over the branches of
    the same fork. The value of a branch is the mean of the rewards of the final images of its samples. In this mean,
    each branch of a later fork counts once. The segments before the first fork are compared with segments of the other
    trajectories of the group.
    """
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
    """Discount factor for the gains of later turns."""


def turn(samples: list[Sample], options: TurnOptions) -> Advantages:
    """Compute advantages from the gains of turns. Turn j has the gain q_j - q_{j-1}. Here q_j is the reward of the
    image of turn j, and q_{-1} = 0. A segment of turn k gets the sum of the gains from turn k on, sum_j gamma^(j-k)
    (q_j - q_{j-1}) for j >= k. The sums are normalised over the samples, separately for each turn and modality.

    With gamma = 1 the sum for turn k is q_last - q_{k-1}. For the first turn this is q_last. So a policy gains nothing
    if it draws a bad first image and improves it later.
    """

    def value(sample: Sample, place: Place) -> float:
        return fsum(options.gamma ** (j - place[0]) * sample.gain(j) for j in range(place[0], len(sample.q)))

    return per_place(samples, value, lambda values: normalised(values, options))


class ImprovementOptions(NormalisedOptions, RightOptions):
    pass


def improvement(samples: list[Sample], options: ImprovementOptions) -> Advantages:
    """Compute the advantages as in the paper R3. A segment of turn k gets the value q_k - q_{k-1}. Here q_k is the
    reward of the image of turn k, and q_{-1} = 0. There is one exception: the image before turn k is already right.
    Then the value is 1 if the model stops in turn k, and 0 if the model edits the image again. The values are
    normalised over the samples, separately for each turn and modality."""

    def value(sample: Sample, place: Place) -> float:
        k = place[0]
        if k and sample.is_right(k - 1):
            return float(k >= len(sample.q))
        return sample.gain(k)

    return per_place(samples, value, lambda values: normalised(values, options))


class VerifierGAEOptions(NormalisedOptions):
    lam: Share = 1.0
    """Lambda: the change of the reward in a turn that is j turns later is weighted by lambda^j. Only lambda = 1 is
    unbiased for the final reward.
    """
    price: Weight = 0.0
    """Cost of every image after the first one, in the units of the combined reward."""
    coefficient: Share | None = None
    """Factor of the previous image's reward q_{k-1} in the baseline. With 0 the scheme is leave-one-out GRPO on the
    final reward. With 1 it uses the plain difference of rewards. With null the factor is fitted for each sample
    separately, on the other samples of the group.
    """


def verifier_gae(samples: list[Sample], options: VerifierGAEOptions) -> Advantages:
    """Compute advantages by generalised advantage estimation without a value network. The score of the previous image
    is used as the state value. `price`, `lam` (lambda) and `coefficient` are options.

    q_k is the reward of the image of turn k. For an edit delta_k = q_k - q_{k-1} - price; for a stop delta_k = 0. With
    G_k = sum_j lambda^(j-k) delta_j for j >= k, the target is Y_k = q_{k-1} + G_k. The advantage is A_k = Y_k minus a
    linear prediction of Y_k from q_{k-1}. The prediction is made from the other samples that have a segment of the same
    turn and modality. `coefficient` is the slope of the prediction.

    With lambda = 1, Y_k is the final reward minus the costs, so the advantage is unbiased for every coefficient. With a
    smaller lambda, errors of the verifier cause a bias. Directly after a fork, q_{k-1} is the same for all branches, so
    the prediction is the mean of the other branches.
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
    """Return G_k = sum_j lambda^(j-k) delta_j of `verifier_gae` for one sample, summed from turn k to the last image.
    If turn k has no image, because the sample has stopped, the sum is 0. The first image costs nothing.
    """
    turns = range(k, len(sample.q))
    return fsum(options.lam ** (j - k) * (sample.gain(j) - (options.price if j else 0.0)) for j in turns)


def umm(samples: list[Sample], options: RightOptions) -> Advantages:
    """Compute advantages from the reward of the paper UMM-Reflection, with the paper's constants, normalised over the
    group. Every segment of a sample gets the same advantage. Only turns after the first one are trained.

    The reward of a sample begins with the reward of its last image. 0.3 times the sum of all rises of the reward from
    one image to the next is added. 0.3 times the sum of all rises except the largest one is added, too. 0.5 times the
    sum of all falls is subtracted. Another 0.5 is subtracted if the model stopped although its last image was wrong.
    """
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
    """Apply the penalty of UMM-Reflection to the advantages in `table`: if a text of a trajectory was cut off at the
    token limit, every advantage A of this trajectory becomes min(A, 0) - 0.5."""
    for row, sample in zip(table, samples):
        if sample.malformed:
            row.update({place: min(advantage, 0.0) - 0.5 for place, advantage in row.items()})


def no_improve_clamp(samples: list[Sample], options: NormalisedOptions) -> Advantages:
    """Compute the advantages of AlphaGRPO. The value of a sample is max(q_last - q_0, 0), the gain from its first to
    its last image. So a sample without improvement has the value 0. The values are normalised over the group. Only
    turns after the first one are trained. If no sample of the group improved, nothing is trained.
    """
    gains = [max(sample.q[-1] - sample.q[0], 0.0) for sample in samples]
    if not any(gains):
        return [{} for _ in samples]
    return broadcast(samples, normalised(gains, options), first_turn=1)


class FactorisedOptions(NormalisedOptions):
    truth: Weight = 1.0
    """Weight of the scores that a reflection itself got (from scorers with `of: reflection`), relative to the final
    reward.
    """
    edit: Weight = 1.0
    """Weight of the scores that an edit itself got (from scorers with `of: edit`), relative to the reward of the image.
    """
    outcome: Weight = 1.0
    """Weight of the reward term: the final reward in the advantage of a text, and the image's own reward in the
    advantage of an image.
    """


def factorised(samples: list[Sample], options: FactorisedOptions) -> Advantages:
    """Judge each segment only by what it controls. A text is judged by the final reward and by its own score (whether
    it is true). An image is judged by its own reward and by its own score (whether it shows the requested edit).

        A = outcome * norm(reward) + weight * norm(own score)

    `reward` is the final reward for a text, and the image's own reward for an image. `outcome` is an option. `weight`
    is the option `truth` for a text and `edit` for an image. If any of the compared segments has no score of its own,
    the second term is left out.

    `norm` is the normalisation over the segments that follow the same fork. It is applied to each of the two terms
    separately. So the second term of a text does not depend on how the image after it turned out. A segment is not
    trained if there is no other segment for the comparison.
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

"""From the scores of a group's images to an advantage on every text and image segment.

q_k is the combined reward of the image of turn k, k = 0 ... last. Text k is written before image k and is credited
with what follows it. A text without an image of its turn is a stop: from there on the trajectory is worth its last
image, so what a stop gains is 0, and in groups of mixed lengths `trajectory` compares final images. A *place* is
(turn, modality); its population are the siblings that have it, so a stop is compared with its siblings' edits.

An image that could not be scored removes its trajectory from the statistics and from training (advantage None).

Where siblings fork, a *node* is a segment with all trajectories through it. Its value is the mean over its branches,
each of them the mean over its own: however often one forks later, or stops before it can, it counts once. A node is
compared with the nodes of its place that come from the same fork, the last one before it: siblings, which share all
that precedes the fork, are each other's baseline, and what they share is compared with other trunks. Without forks
every node is one trajectory, and all come from the prompt.
Worked examples of every scheme: docs/methods.md.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import fsum, sqrt

from irg_rl.trajectory import Group, ImageSegment, Modality, Segment, TextSegment, Trajectory


class Scheme(StrEnum):
    TRAJECTORY = "trajectory"
    TURN = "turn"
    VERIFIER_GAE = "verifier_gae"
    IMPROVEMENT = "improvement"
    UMM = "umm"
    NO_IMPROVE_CLAMP = "no_improve_clamp"


@dataclass(frozen=True)
class Gate:
    """An image that scorer `name` puts below `at_least` has all its rewards replaced by `value` before combination."""

    name: str
    at_least: float
    value: float = 0.0


@dataclass(frozen=True)
class Options:
    gamma: float = 1.0
    """turn: discount of what later turns add."""
    lam: float = 1.0
    """verifier_gae: weight of later deltas; only 1 is unbiased for the final reward."""
    price: float = 0.0
    """verifier_gae: what an edit costs, in units of the combined reward."""
    coefficient: float | None = None
    """verifier_gae: share of q_{k-1} used as baseline; None: fitted on the siblings, leaving the sample itself out."""
    std_floor: float = 0.05
    """Smallest standard deviation that is divided by: below it a spread is the judge's noise."""
    mean_only: bool = False
    """Centre without dividing by the standard deviation."""
    clip: float | None = 5.0
    """Bound on |advantage|, before the penalty."""
    malformed_penalty: float = 1.0
    """Subtracted, after normalisation, from the advantage of a text that was cut off. Inside the reward, group centring
    would undo it (UMM-Reflection: invalid answers rose from .6 to 16 %)."""
    perfect: float = 1.0
    """improvement, umm: the combined reward from which an image counts as right."""


@dataclass(frozen=True)
class Summary:
    """What `assign` did to a group. `dead`: no segment got an advantage other than 0 from its rewards; `empty`: no
    segment got any, so that there is nothing to train on."""

    trained: int
    dropped: int
    dead: bool
    empty: bool
    reward_mean: float
    reward_std: float
    coefficient: float | None = None


ROUNDING = 1e-9
"""Spreads up to this are rounding, not signal: dividing by one would make large advantages of nothing."""

Place = tuple[int, Modality]
Branch = tuple[int, int]
"""A fork (the segment before it; 0 for the prompt) and the segment with which one of its ways begins, by identity."""
Table = list[dict[Place, float]]


WHOLE = (Scheme.UMM, Scheme.NO_IMPROVE_CLAMP)
"""Schemes whose rules are about whole trajectories, which have no meaning for a segment that several share."""


@dataclass(frozen=True)
class Sample:
    """What the schemes see of a trajectory: image values, segments, and how it ended."""

    q: list[float]
    path: dict[Place, int]  # its segments in order, by identity
    branches: dict[Place, Branch]  # the last fork before each of them and the way taken there
    stopped: bool
    malformed: frozenset[Place] = field(default_factory=frozenset)

    @property
    def places(self) -> list[Place]:
        return list(self.path)

    def value(self, turn: int) -> float:
        """Value of the state after `turn`: its image's, or the last one's after a stop."""
        return self.q[min(turn, len(self.q) - 1)]

    def gain(self, turn: int) -> float:
        """What `turn` added; the first image starts from 0."""
        return self.value(turn) - (self.value(turn - 1) if turn else 0.0)


def combine(
    group: Group, weights: Mapping[str, float], how: str = "sum", gates: Sequence[Gate] = ()
) -> list[list[float | None]]:
    """One number per image: `[trajectory][turn]`, None where a scorer or gate that is used gave none.

    "sum": weighted sum of raw scores. "zscore_sum" (GDPO): every score is first centred and scaled over all images of
    the group's valid trajectories (one that siblings share, once), all turns together so that differences between turns
    keep their meaning.
    """
    if how not in ("sum", "zscore_sum"):
        raise ValueError(f"combine how={how!r}: use 'sum' or 'zscore_sum'")
    if not weights:
        raise ValueError("no reward to combine: name at least one scorer and its weight")
    raw = [{name: _scores(t, name, gates) for name in weights} for t in group.trajectories]
    if how == "zscore_sum":
        valid = [i for i, r in enumerate(raw) if all(value is not None for scores in r.values() for value in scores)]
        images = {i: [id(image) for image in group.trajectories[i].images] for i in valid}
        for name in weights:
            pooled = {image: value for i in valid for image, value in zip(images[i], raw[i][name])}
            scaled = dict(zip(pooled, normalise(list(pooled.values()), floor=1e-6)))
            for i in valid:
                raw[i][name] = [scaled[image] for image in images[i]]
    return [
        [
            None if any(scores[k] is None for scores in r.values()) else fsum(weights[n] * r[n][k] for n in weights)
            for k in range(t.turns)
        ]
        for t, r in zip(group.trajectories, raw)
    ]


def assign(
    group: Group,
    scheme: Scheme | str,
    weights: Mapping[str, float],
    *,
    how: str = "sum",
    gates: Sequence[Gate] = (),
    options: Options = Options(),
) -> Summary:
    """Set `.advantage` on every segment of the group, None on those that are not trained."""
    scheme = Scheme(scheme)
    if how == "zscore_sum" and scheme in (Scheme.IMPROVEMENT, Scheme.UMM):
        raise ValueError(f"credit {scheme} asks whether an image is perfect, which a z-score cannot say: use how='sum'")
    values = combine(group, weights, how, gates)
    valid = [i for i, q in enumerate(values) if q and None not in q]
    forks = _forks(group)
    if forks and scheme in WHOLE:
        raise ValueError(f"credit {scheme} judges whole trajectories, and siblings of this group share segments")
    samples = [_sample(group.trajectories[i], values[i], forks) for i in valid]
    table: Table = [{} for _ in samples]
    coefficient = None
    if len(samples) >= 2:
        if scheme is Scheme.VERIFIER_GAE:
            table, coefficient = verifier_gae(samples, options)
        else:
            table = SCHEMES[scheme](samples, options)
    dead = not any(abs(advantage) > ROUNDING for row in table for advantage in row.values())
    _penalise(table, samples, scheme, options)
    _write(group, {i: row for i, row in zip(valid, table)})
    mean, std = _moments([sample.q[-1] for sample in samples])
    return Summary(len(samples), len(values) - len(samples), dead, not any(table), mean, std, coefficient)


def by_trunk(trajectories: Sequence[Trajectory], values: Sequence[float]) -> list[float]:
    """One value per trajectory -> one per trunk, the mean over its branches. Without forks the values themselves."""
    paths = [tuple(map(id, trajectory.segments)) for trajectory in trajectories]
    trunks: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        trunks[path[0]].append(i)
    return [mean_of_branches(paths, members, values, 1) for members in trunks.values()]


def mean_of_branches(
    paths: Sequence[tuple[int, ...]], members: Sequence[int], values: Sequence[float], depth: int
) -> float:
    """What a node is worth: the mean over the branches that its `members` take, which agree in the first `depth`
    segments. `paths`: segments of all trajectories, by identity."""
    if len(members) == 1:
        return values[members[0]]
    ways: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in members:
        ways[paths[i][depth : depth + 1]].append(i)
    if () in ways:  # nothing follows: one trajectory, several times
        return _mean([values[i] for i in members])
    return _mean([mean_of_branches(paths, own, values, depth + 1) for own in ways.values()])


def trajectory(samples: list[Sample], options: Options) -> Table:
    """GRPO: the final image's reward, normalised over the ways of a fork, on every segment up to the next fork. Without
    forks: normalised over the group, on every segment."""
    table: Table = [{} for _ in samples]
    ways: dict[int, dict[Branch, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples):
        for branch in dict.fromkeys(sample.branches.values()):
            ways[branch[0]][branch].append(i)
    finals = [sample.q[-1] for sample in samples]
    for own in ways.values():
        advantages = _normalised(_values(samples, [(b[1], members) for b, members in own.items()], finals), options)
        for advantage, (branch, members) in zip(advantages, own.items()):
            for i in members:
                table[i].update({place: advantage for place, taken in samples[i].branches.items() if taken == branch})
    return table


def turn(samples: list[Sample], options: Options) -> Table:
    """Return-to-go of the gains, sum_j gamma^(j-k) (q_j - q_{j-1}), normalised per place.

    With gamma = 1 it telescopes to q_last - q_{k-1}: nothing is won by drawing badly first.
    """

    def value(sample: Sample, place: Place) -> float:
        return fsum(options.gamma ** (j - place[0]) * sample.gain(j) for j in range(place[0], len(sample.q)))

    return _per_place(samples, value, lambda values: _normalised(values, options))


def improvement(samples: list[Sample], options: Options) -> Table:
    """R3: q_0 on the first turn, then q_k - q_{k-1}; on an image that is already right, 1 for stopping, else 0."""

    def value(sample: Sample, place: Place) -> float:
        k = place[0]
        if k and sample.value(k - 1) >= options.perfect:
            return float(k >= len(sample.q))
        return sample.gain(k)

    return _per_place(samples, value, lambda values: _normalised(values, options))


def verifier_gae(samples: list[Sample], options: Options) -> tuple[Table, float | None]:
    """The previous image's score as the value of the state: generalised advantage estimation without a value network.

    delta_k = q_k - q_{k-1} - price of an edit (0 for a stop), G_k = sum_j lambda^(j-k) delta_j, and the target is
    Y_k = q_{k-1} + G_k. A_k = Y_k - (the siblings' linear prediction of Y_k from q_{k-1}), siblings being those still
    active at the place, the sample left out. At lambda = 1 Y_k is the final reward less costs, so any coefficient is
    unbiased; below 1 it leans on the verifier. Right after a fork q_{k-1} is the same for all, and the prediction the
    others' mean. Also returns the mean fitted coefficient of turns after the first.
    """
    fitted: list[float] = []

    def advantages(nodes: list[Node], place: Place) -> list[float]:
        start = [samples[members[0]].value(place[0] - 1) if place[0] else 0.0 for _, members in nodes]
        gains = _values(samples, nodes, [_discounted(sample, place[0], options) for sample in samples])
        target = [q + gain for q, gain in zip(start, gains)]
        if len(nodes) < 2:
            return [0.0] * len(nodes)
        out = []
        for i, (q, y) in enumerate(zip(start, target)):
            others_q, others_y = start[:i] + start[i + 1 :], target[:i] + target[i + 1 :]
            c = _slope(others_q, others_y) if options.coefficient is None else options.coefficient
            if place[0]:
                fitted.append(c)
            out.append(y - _mean(others_y) - c * (q - _mean(others_q)))
        return _scaled(out, options)

    table: Table = [{} for _ in samples]
    for (place, _), nodes in _populations(samples).items():
        _enter(table, place, nodes, advantages(nodes, place))
    return table, _mean(fitted) if fitted else None


def umm(samples: list[Sample], options: Options) -> Table:
    """UMM-Reflection's reward and constants; `options` gives only `perfect`. Turns after the first are trained."""
    rewards = []
    for sample in samples:
        gains = [sample.gain(k) for k in range(1, len(sample.q))]
        rises = [g for g in gains if g > 0]
        repeated = fsum(rises) - max(rises, default=0.0)
        losses = fsum(-g for g in gains if g < 0)
        premature = 0.5 * (sample.stopped and sample.q[-1] < options.perfect)
        rewards.append(sample.q[-1] + 0.3 * fsum(rises) + 0.3 * repeated - 0.5 * losses - premature)
    return _broadcast(samples, normalise(rewards, floor=0.1, clip=1.0), first_turn=1)


def no_improve_clamp(samples: list[Sample], options: Options) -> Table:
    """AlphaGRPO: max(q_last - q_0, 0), so that all failures are equal. Turns after the first are trained; nothing at
    all when no sibling improved."""
    gains = [max(sample.q[-1] - sample.q[0], 0.0) for sample in samples]
    if not any(gains):
        return [{} for _ in samples]
    return _broadcast(samples, _normalised(gains, options), first_turn=1)


SCHEMES: dict[Scheme, Callable[[list[Sample], Options], Table]] = {
    Scheme.TRAJECTORY: trajectory,
    Scheme.TURN: turn,
    Scheme.IMPROVEMENT: improvement,
    Scheme.UMM: umm,
    Scheme.NO_IMPROVE_CLAMP: no_improve_clamp,
}


def normalise(
    values: Sequence[float],
    *,
    floor: float = 0.0,
    eps: float = 0.0,
    ddof: int = 0,
    mean_only: bool = False,
    clip: float | None = None,
) -> list[float]:
    """(x - mean) / max(std + eps, floor), clipped. A constant or lone value gives 0. Order does not change the result.

    `ddof` and `eps` exist because references differ (trl: ddof 1, + 1e-4; Flow-Factory: ddof 0, floor 1e-6).
    """
    mean, std = _moments(values, ddof)
    scale = 1.0 if mean_only else max(std + eps, floor)
    out = [(value - mean) / scale if std else 0.0 for value in values]
    return out if clip is None else [max(-clip, min(clip, value)) for value in out]


def leave_one_out(values: Sequence[float]) -> list[float]:
    """RLOO: x_i minus the mean of the others."""
    total = fsum(values)
    return [value - (total - value) / (len(values) - 1) for value in values]


def _scores(sample: Trajectory, name: str, gates: Sequence[Gate]) -> list[float | None]:
    scores = list(_of(sample, name))
    for gate in gates:
        for k, measured in enumerate(_of(sample, gate.name)):
            if measured is None:
                scores[k] = None
            elif measured < gate.at_least and scores[k] is not None:
                scores[k] = gate.value
    return scores


def _of(sample: Trajectory, name: str) -> list[float | None]:
    if name not in sample.rewards:
        raise ValueError(f"sample {sample.sample} has no reward {name!r}; it has {sorted(sample.rewards)}")
    if len(sample.rewards[name]) != sample.turns:
        raise ValueError(
            f"sample {sample.sample} has {sample.turns} images but {len(sample.rewards[name])} values of {name!r}"
        )
    return sample.rewards[name]


Node = tuple[int, list[int]]
"""A segment, by identity, and the samples through it."""


def _forks(group: Group) -> set[int]:
    """Segments, by identity, that more than one other continues. Those of failed samples count: a way that is alone
    because its siblings failed has no baseline."""
    after: dict[int, set[int]] = defaultdict(set)
    for sample in group.trajectories:
        for segment, following in zip(sample.segments, sample.segments[1:]):
            after[id(segment)].add(id(following))
    return {segment for segment, following in after.items() if len(following) > 1}


def _sample(sample: Trajectory, q: list[float], forks: set[int]) -> Sample:
    turns = [image.turn for image in sample.images]
    if turns != list(range(len(turns))):
        raise ValueError(f"sample {sample.sample} has images of turns {turns}: expected one per turn from 0")
    malformed = {_place(s) for s in sample.segments if isinstance(s, TextSegment) and not s.finished}
    path = {_place(s): id(s) for s in sample.segments}
    branches, before, branch = {}, 0, (0, 0)
    for place, segment in path.items():
        if not before or before in forks:
            branch = (before, segment)
        branches[place], before = branch, segment
    return Sample(q, path, branches, sample.stopped, frozenset(malformed))


def _place(segment: Segment) -> Place:
    return segment.turn, Modality.IMAGE if isinstance(segment, ImageSegment) else Modality.TEXT


def _populations(samples: list[Sample]) -> dict[tuple[Place, int], list[Node]]:
    """The nodes of each place that come from the same fork."""
    populations: dict[tuple[Place, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples):
        for place, segment in sample.path.items():
            populations[place, sample.branches[place][0]][segment].append(i)
    return {key: list(nodes.items()) for key, nodes in populations.items()}


def _values(samples: list[Sample], nodes: list[Node], values: list[float]) -> list[float]:
    """One value per sample -> one per node."""
    paths = [tuple(sample.path.values()) for sample in samples]
    return [
        mean_of_branches(paths, members, values, paths[members[0]].index(segment) + 1) for segment, members in nodes
    ]


def _enter(table: Table, place: Place, nodes: list[Node], advantages: list[float]) -> None:
    for (_, members), advantage in zip(nodes, advantages):
        for i in members:
            table[i][place] = advantage


def _per_place(
    samples: list[Sample], value: Callable[[Sample, Place], float], centre: Callable[[list[float]], list[float]]
) -> Table:
    table: Table = [{} for _ in samples]
    for (place, _), nodes in _populations(samples).items():
        own = [value(s, place) if place in s.path else 0.0 for s in samples]
        _enter(table, place, nodes, centre(_values(samples, nodes, own)))
    return table


def _broadcast(samples: list[Sample], advantages: list[float], first_turn: int = 0) -> Table:
    return [{p: a for p in sample.places if p[0] >= first_turn} for sample, a in zip(samples, advantages)]


def _discounted(sample: Sample, k: int, options: Options) -> float:
    """sum_j lambda^(j-k) delta_j from turn k to the last image; 0 for a stop. The first image has no price."""
    turns = range(k, len(sample.q))
    return fsum(options.lam ** (j - k) * (sample.gain(j) - (options.price if j else 0.0)) for j in turns)


def _slope(q: list[float], y: list[float]) -> float:
    """Least-squares slope of y on q, kept in [0, 1]; with fewer than 3 distinct q, or none that differ by more than
    rounding, it is 1, the plain baseline."""
    if len(set(q)) < 3:
        return 1.0
    mean_q, mean_y = _mean(q), _mean(y)
    spread = fsum((a - mean_q) ** 2 for a in q)
    if not spread:
        return 1.0
    slope = fsum((a - mean_q) * (b - mean_y) for a, b in zip(q, y)) / spread
    return max(0.0, min(1.0, slope))


def _normalised(values: list[float], options: Options) -> list[float]:
    return normalise(values, floor=options.std_floor, mean_only=options.mean_only, clip=options.clip)


def _scaled(centred: list[float], options: Options) -> list[float]:
    """As `_normalised`, for values that have their baseline already: a second centring would undo the leaving out."""
    std = _moments(centred)[1]
    scale = 1.0 if options.mean_only or not std else max(std, options.std_floor)
    bound = float("inf") if options.clip is None else options.clip
    return [max(-bound, min(bound, value / scale)) for value in centred]


def _penalise(table: Table, samples: list[Sample], scheme: Scheme, options: Options) -> None:
    for row, sample in zip(table, samples):
        if scheme is Scheme.UMM and sample.malformed:
            row.update({place: min(advantage, 0.0) - 0.5 for place, advantage in row.items()})
        elif scheme is not Scheme.UMM:
            row.update({place: row[place] - options.malformed_penalty for place in sample.malformed if place in row})


def _write(group: Group, rows: dict[int, dict[Place, float]]) -> None:
    for segment in group.segments:
        segment.advantage = None
    for i, row in rows.items():
        for segment in group.trajectories[i].segments:
            segment.advantage = row.get(_place(segment))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def _moments(values: Sequence[float], ddof: int = 0) -> tuple[float, float]:
    """Mean and standard deviation; std 0 for fewer than ddof + 1 values or values equal to rounding."""
    if not values:
        return 0.0, 0.0
    mean = _mean(values)
    if len(values) <= ddof or max(values) - min(values) <= ROUNDING:
        return mean, 0.0
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - ddof))

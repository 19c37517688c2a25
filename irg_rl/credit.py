"""From the scores of a group's images to an advantage on every text and image segment.

q_k is the combined reward of the image of turn k, k = 0 ... last. Text k is written before image k and is credited
with what follows it. A text without an image of its turn is a stop: from there on the trajectory is worth its last
image, so what a stop gains is 0, and in groups of mixed lengths `trajectory` compares final images. A *place* is
(turn, modality); its population are the siblings that have it, so a stop is compared with its siblings' edits.

An image that could not be scored removes its trajectory from the statistics and from training (advantage None).
Segments that siblings share are one object in several trajectories and receive the mean over those trajectories.
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
Table = list[dict[Place, float]]


@dataclass(frozen=True)
class Sample:
    """What the schemes see of a trajectory: image values, places, and how it ended."""

    q: list[float]
    places: list[Place]
    stopped: bool
    malformed: frozenset[Place] = field(default_factory=frozenset)

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
    the group's valid trajectories, all turns together so that differences between turns keep their meaning.
    """
    if how not in ("sum", "zscore_sum"):
        raise ValueError(f"combine how={how!r}: use 'sum' or 'zscore_sum'")
    if not weights:
        raise ValueError("no reward to combine: name at least one scorer and its weight")
    raw = [{name: _scores(t, name, gates) for name in weights} for t in group.trajectories]
    if how == "zscore_sum":
        valid = [i for i, r in enumerate(raw) if all(value is not None for scores in r.values() for value in scores)]
        for name in weights:
            pooled = [value for i in valid for value in raw[i][name]]
            scaled = iter(normalise(pooled, floor=1e-6))
            for i in valid:
                raw[i][name] = [next(scaled) for _ in raw[i][name]]
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
    samples = [_sample(group.trajectories[i], values[i]) for i in valid]
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


def trajectory(samples: list[Sample], options: Options) -> Table:
    """GRPO: the final image's reward, normalised over the group, on every segment."""
    return _broadcast(samples, _normalised([sample.q[-1] for sample in samples], options))


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
    unbiased; below 1 it leans on the verifier. Also returns the mean fitted coefficient of turns after the first.
    """
    fitted: list[float] = []

    def advantages(members: list[Sample], place: Place) -> list[float]:
        start = [s.value(place[0] - 1) if place[0] else 0.0 for s in members]
        target = [q + _discounted(s, place[0], options) for q, s in zip(start, members)]
        if len(members) < 2:
            return [0.0] * len(members)
        out = []
        for i, (q, y) in enumerate(zip(start, target)):
            others_q, others_y = start[:i] + start[i + 1 :], target[:i] + target[i + 1 :]
            c = _slope(others_q, others_y) if options.coefficient is None else options.coefficient
            if place[0]:
                fitted.append(c)
            out.append(y - _mean(others_y) - c * (q - _mean(others_q)))
        return _scaled(out, options)

    table: Table = [{} for _ in samples]
    for place, indices in _populations(samples).items():
        for i, advantage in zip(indices, advantages([samples[i] for i in indices], place)):
            table[i][place] = advantage
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


def _sample(sample: Trajectory, q: list[float]) -> Sample:
    turns = [image.turn for image in sample.images]
    if turns != list(range(len(turns))):
        raise ValueError(f"sample {sample.sample} has images of turns {turns}: expected one per turn from 0")
    malformed = {_place(s) for s in sample.segments if isinstance(s, TextSegment) and not s.finished}
    return Sample(q, list(dict.fromkeys(_place(s) for s in sample.segments)), sample.stopped, frozenset(malformed))


def _place(segment: Segment) -> Place:
    return segment.turn, Modality.IMAGE if isinstance(segment, ImageSegment) else Modality.TEXT


def _populations(samples: list[Sample]) -> dict[Place, list[int]]:
    populations = defaultdict(list)
    for i, sample in enumerate(samples):
        for place in sample.places:
            populations[place].append(i)
    return populations


def _per_place(
    samples: list[Sample], value: Callable[[Sample, Place], float], centre: Callable[[list[float]], list[float]]
) -> Table:
    table: Table = [{} for _ in samples]
    for place, indices in _populations(samples).items():
        for i, advantage in zip(indices, centre([value(samples[i], place) for i in indices])):
            table[i][place] = advantage
    return table


def _broadcast(samples: list[Sample], advantages: list[float], first_turn: int = 0) -> Table:
    return [{p: a for p in sample.places if p[0] >= first_turn} for sample, a in zip(samples, advantages)]


def _discounted(sample: Sample, k: int, options: Options) -> float:
    """sum_j lambda^(j-k) delta_j from turn k to the last image; 0 for a stop. The first image has no price."""
    turns = range(k, len(sample.q))
    return fsum(options.lam ** (j - k) * (sample.gain(j) - (options.price if j else 0.0)) for j in turns)


def _slope(q: list[float], y: list[float]) -> float:
    """Least-squares slope of y on q, kept in [0, 1]; with fewer than 3 distinct q it is 1, the plain baseline."""
    if len(set(q)) < 3:
        return 1.0
    mean_q, mean_y = _mean(q), _mean(y)
    slope = fsum((a - mean_q) * (b - mean_y) for a, b in zip(q, y)) / fsum((a - mean_q) ** 2 for a in q)
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
    received = defaultdict(list)
    for i, sample in enumerate(group.trajectories):
        for segment in sample.segments:
            segment.advantage = None
            if _place(segment) in rows.get(i, {}):
                received[id(segment)].append(rows[i][_place(segment)])
    for sample in group.trajectories:
        for segment in sample.segments:
            if id(segment) in received:
                segment.advantage = _mean(received[id(segment)])


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

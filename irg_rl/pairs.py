"""Preferences among siblings: where trajectories of a group part, the best way against the worst.

A *fork* is a place at which trajectories that have shared all segments so far, as the same objects, go on with
different ones, its *ways*. Siblings that share nothing but the prompt part at place 0. A way is worth the mean over its
own branches, as in `credit`: one that is luckier in a single leaf is no better to take. A pair shows the better way by
its best leaf and the worse one by its worst. What they share is no matter of preference: a pair differs in the segments
from its fork on.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from irg_rl.credit import mean_of_branches
from irg_rl.trajectory import Group, Trajectory

SegmentIds = tuple[int, ...]
"""Segments of a trajectory, by identity."""
ValuedBranch = tuple[float, list[int]]
"""What it is worth, and the trajectories that take it."""


@dataclass(frozen=True)
class Pair:
    chosen: Trajectory
    rejected: Trajectory
    fork: int  # number of segments that they share
    group: int
    gap: float  # what the chosen one's way is worth more


@dataclass(frozen=True)
class Pairs:
    """Of a batch of groups. `ties`: pairs left out because their gap is no larger than the judge's noise."""

    found: list[Pair]
    ties: int = 0


def find_pairs(group: Group, values: Sequence[float | None], tie: float, per_fork: int = 1) -> Pairs:
    """Up to `per_fork` pairs of ways at every fork: best and worst, second best and second worst, ...

    `values`: what each trajectory is worth; None leaves it out. Siblings of a fork have the same images before it, so
    any value that adds up over images compares what came after. Among equals the first is taken.
    """
    paths = [tuple(map(id, trajectory.segments)) for trajectory in group.trajectories]
    members = [i for i, value in enumerate(values) if value is not None]
    worth = [0.0 if value is None else value for value in values]  # of members; the others are not looked at
    found, ties = [], 0
    for place, branches in _forks(paths, members, 0):
        ways = [(mean_of_branches(paths, way, worth, place + 1), way) for way in branches]
        for (high, best), (low, lowest) in _matched(ways, per_fork):
            if high - low <= tie:
                ties += 1
                continue
            chosen, rejected = max(best, key=worth.__getitem__), min(lowest, key=worth.__getitem__)
            pair = Pair(group.trajectories[chosen], group.trajectories[rejected], place, group.id, high - low)
            found.append(pair)
    return Pairs(found, ties)


def _matched(ways: Sequence[ValuedBranch], count: int) -> Iterator[tuple[ValuedBranch, ValuedBranch]]:
    """Best and worst, from the outside in."""
    left = sorted(ways, key=lambda way: -way[0])
    for _ in range(min(count, len(left) // 2)):
        best = left.pop(0)
        worst = min(left, key=lambda way: way[0])
        left.remove(worst)
        yield best, worst


def _forks(paths: Sequence[SegmentIds], members: list[int], place: int) -> Iterator[tuple[int, list[list[int]]]]:
    """(place, the members of each way) of every fork among trajectories that share all segments before `place`."""
    while len(members) > 1:
        ways: dict[SegmentIds, list[int]] = defaultdict(list)
        for i in members:
            ways[paths[i][place : place + 1]].append(i)
        if len(ways) > 1:
            yield place, list(ways.values())
            for way in ways.values():
                yield from _forks(paths, way, place + 1)
            return
        if () in ways:  # the same to the end
            return
        place += 1


def mark(group: Group, pairs: Sequence[Pair]) -> None:
    """Advantages that say which segments preferences train: pairs won less pairs lost; None for those in no pair."""
    standing: dict[int, int] = {}
    for pair in pairs:
        for side, trajectory in ((1, pair.chosen), (-1, pair.rejected)):
            for segment in trajectory.segments[pair.fork :]:
                standing[id(segment)] = standing.get(id(segment), 0) + side
    for trajectory in group.trajectories:
        for segment in trajectory.segments:
            won = standing.get(id(segment))
            segment.advantage = None if won is None else float(won)

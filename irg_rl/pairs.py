"""Preference pairs of siblings: at every fork the best branch against the worst.

A *fork* is a point where trajectories that share all segments so far (the same objects) continue with different ones,
its *branches*. Siblings that share only the prompt have their fork at segment 0. The value of a branch is the mean over
its own branches, as in `credit`, so one lucky trajectory does not make a branch better. A pair takes the best
trajectory of the better branch and the worst trajectory of the worse branch. It differs only in the segments after the
fork, and only these are trained.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from irg_rl.credit import mean_of_branches
from irg_rl.trajectory import Group, Trajectory

SegmentIds = tuple[int, ...]
"""id() of the segments of a trajectory, in order."""
ValuedBranch = tuple[float, list[int]]
"""Value of a branch, and indices of the trajectories in it."""


@dataclass(frozen=True)
class Pair:
    chosen: Trajectory
    rejected: Trajectory
    fork: int  # number of segments that they share
    group: int
    gap: float  # value of the chosen branch minus that of the rejected one


@dataclass(frozen=True)
class Pairs:
    """Pairs of a group. `ties`: number of pairs that were left out because their gap is at most `tie`."""

    found: list[Pair]
    ties: int = 0


def find_pairs(group: Group, values: Sequence[float | None], tie: float, per_fork: int = 1) -> Pairs:
    """Up to `per_fork` pairs of branches at every fork: best and worst, second best and second worst, ...

    values: the value of each trajectory; None leaves it out. tie: pairs with a smaller or equal gap are left out.
    Siblings of a fork have the same images before it. So a value that is a sum over images compares what comes after
    the fork. Of equal values, the first one is taken.
    """
    paths = [tuple(map(id, trajectory.segments)) for trajectory in group.trajectories]
    members = [i for i, value in enumerate(values) if value is not None]
    worth = [0.0 if value is None else value for value in values]  # only those of members are used
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
    """Pairs of best and worst branch, then second best and second worst, and so on."""
    left = sorted(ways, key=lambda way: -way[0])
    for _ in range(min(count, len(left) // 2)):
        best = left.pop(0)
        worst = min(left, key=lambda way: way[0])
        left.remove(worst)
        yield best, worst


def _forks(paths: Sequence[SegmentIds], members: list[int], place: int) -> Iterator[tuple[int, list[list[int]]]]:
    """(index of the segment, members of each branch) for every fork. All `members` share the segments before
    `place`."""
    while len(members) > 1:
        ways: dict[SegmentIds, list[int]] = defaultdict(list)
        for i in members:
            ways[paths[i][place : place + 1]].append(i)
        if len(ways) > 1:
            yield place, list(ways.values())
            for way in ways.values():
                yield from _forks(paths, way, place + 1)
            return
        if () in ways:  # all members end here
            return
        place += 1


def mark(group: Group, pairs: Sequence[Pair]) -> None:
    """Set advantages that show what the pairs train: pairs won minus pairs lost. None: the segment is in no pair."""
    standing: dict[int, int] = {}
    for pair in pairs:
        for side, trajectory in ((1, pair.chosen), (-1, pair.rejected)):
            for segment in trajectory.segments[pair.fork :]:
                standing[id(segment)] = standing.get(id(segment), 0) + side
    for trajectory in group.trajectories:
        for segment in trajectory.segments:
            won = standing.get(id(segment))
            segment.advantage = None if won is None else float(won)

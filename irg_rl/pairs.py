"""Preference pairs from the trajectories of one group (all trajectories of one prompt): at every fork, the best branch
is compared with the worst.

A trajectory is a list of segments; a segment is one text or one image. A *fork* is a point where trajectories separate.
Before the fork, they share all segments (the same Python objects). After it, they have different segments. Each
continuation is a *branch*. Trajectories that share only the prompt have their fork at segment 0.

The caller gives every trajectory a value. A branch with one trajectory has the value of this trajectory. If a branch
forks again, its value is the mean of the values of the branches inside it, as in the package `irg_rl.credit`. So one
lucky trajectory does not make a branch look better.

A pair consists of the best trajectory of the better branch and the worst trajectory of the worse branch. The two differ
only in the segments after the fork, and only these segments are trained.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from irg_rl.credit import mean_of_branches
from irg_rl.trajectory import Group, Trajectory

SegmentIds = tuple[int, ...]
"""The id() of each segment of a trajectory, in order."""
ValuedBranch = tuple[float, list[int]]
"""The value of a branch, and the indices of the trajectories in it."""


@dataclass(frozen=True)
class Pair:
    chosen: Trajectory
    rejected: Trajectory
    fork: int  # number of segments that the two trajectories share
    group: int
    gap: float  # value of the chosen branch minus value of the rejected branch


@dataclass(frozen=True)
class Pairs:
    """The preference pairs that `find_pairs` found in one group (several trajectories of one prompt). `ties` is the
    number of pairs that were left out because the values of their two branches were too close."""

    found: list[Pair]
    ties: int = 0


def find_pairs(group: Group, values: Sequence[float | None], tie: float, per_fork: int = 1) -> Pairs:
    """Find up to `per_fork` pairs of trajectories at every fork of a group. A fork is a point where trajectories with
    the same beginning continue differently. Each continuation is a branch, and a branch may split again later. A branch
    that does not split again has the value of its only trajectory. The value of any other branch is the mean of the
    values of the branches into which it splits.

    The best branch is paired with the worst, then the second best with the second worst, and so on. The better branch
    is represented by its best trajectory, and the worse branch by its worst trajectory. If several branches or
    trajectories have equal values, the first one is taken.

    values: the value of each trajectory; a trajectory with None is left out. tie: a pair is left out if the values of
    its two branches differ by at most this number.

    The branches of a fork have the same images before the fork. So if the value of a trajectory is a sum over its
    images, the comparison depends only on what comes after the fork.
    """
    paths = [tuple(map(id, trajectory.segments)) for trajectory in group.trajectories]
    members = [i for i, value in enumerate(values) if value is not None]
    worth = [0.0 if value is None else value for value in values]  # 0.0 is not used: only members are
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
    """Yield up to `count` pairs of branches as (better, worse): first best and worst, then second best and second
    worst, and so on."""
    left = sorted(ways, key=lambda way: -way[0])
    for _ in range(min(count, len(left) // 2)):
        best = left.pop(0)
        worst = min(left, key=lambda way: way[0])
        left.remove(worst)
        yield best, worst


def _forks(paths: Sequence[SegmentIds], members: list[int], place: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Yield every fork of the trajectories `members` (given by their indices) as a tuple (number of segments before the
    fork, list of branches). A branch is the list of the trajectories in it. `paths` holds the segment ids of each
    trajectory. All `members` share the segments before index `place`."""
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
    """Set the `advantage` of every segment (text or image) in the group, so that reports can show which segments the
    pairs train. A pair trains the segments of its two trajectories after their fork. A pair counts +1 for a segment of
    its better trajectory, and -1 for a segment of its worse trajectory. The advantage of a segment is the sum of these
    counts. It is None if no pair trains the segment."""
    standing: dict[int, int] = {}
    for pair in pairs:
        for side, trajectory in ((1, pair.chosen), (-1, pair.rejected)):
            for segment in trajectory.segments[pair.fork :]:
                standing[id(segment)] = standing.get(id(segment), 0) + side
    for trajectory in group.trajectories:
        for segment in trajectory.segments:
            won = standing.get(id(segment))
            segment.advantage = None if won is None else float(won)

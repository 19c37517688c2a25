"""Preferences among siblings: where trajectories of a group part, the best against the worst.

A *fork* is a place at which trajectories that have shared all segments so far, as the same objects, go on with
different ones. Siblings that share nothing but the prompt part at place 0. What they share is no matter of preference:
a pair differs in the segments from its fork on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.trajectory import Group, Trajectory


@dataclass(frozen=True)
class Pair:
    chosen: Trajectory
    rejected: Trajectory
    fork: int  # number of segments that they share
    group: int
    gap: float  # what the chosen one is worth more


@dataclass(frozen=True)
class Pairs:
    """Of a batch of groups. `ties`: pairs left out because their gap is no larger than the judge's noise."""

    found: list[Pair]
    ties: int = 0


def find_pairs(group: Group, values: Sequence[float | None], tie: float, per_fork: int = 1) -> Pairs:
    """Up to `per_fork` pairs at every fork: best and worst, second best and second worst, ...

    `values`: what each trajectory is worth; None leaves it out. Siblings of a fork have the same images before it, so
    any value that adds up over images compares what came after. A pair takes its two sides from different branches;
    among equals the first is taken.
    """
    found, ties = [], 0
    known = [(value, t) for value, t in zip(values, group.trajectories, strict=True) if value is not None]
    for place, branches in _forks(known, 0):
        ranked = sorted((-value, number, branch, t) for branch, members in enumerate(branches)
                        for number, (value, t) in enumerate(members))  # fmt: skip
        found_here, ties_here = _at_fork(group.id, place, ranked, tie, per_fork)
        found += found_here
        ties += ties_here
    return Pairs(found, ties)


def _at_fork(group: int, place: int, ranked: list[tuple], tie: float, per_fork: int) -> tuple[list[Pair], int]:
    """`ranked`: (-value, number, branch, trajectory), the best first."""
    found, ties, left = [], 0, list(ranked)
    while len(found) + ties < per_fork and left:
        best = left.pop(0)
        others = [one for one in left if one[2] != best[2]]
        if not others:
            break
        worst = max(others, key=lambda one: one[0])
        left.remove(worst)
        gap = worst[0] - best[0]
        if gap <= tie:
            ties += 1
        else:
            found.append(Pair(best[3], worst[3], place, group, gap))
    return found, ties


def _forks(members: list[tuple[float, Trajectory]], place: int):
    """(place, branches) of every fork among trajectories that share all segments before `place`."""
    while len(members) > 1:
        branches: dict[int, list[tuple[float, Trajectory]]] = {}
        for value, trajectory in members:
            ended = place >= len(trajectory.segments)
            branches.setdefault(0 if ended else id(trajectory.segments[place]), []).append((value, trajectory))
        if len(branches) > 1:
            yield place, list(branches.values())
            for branch in branches.values():
                yield from _forks(branch, place + 1)
            return
        if 0 in branches:  # the same to the end
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

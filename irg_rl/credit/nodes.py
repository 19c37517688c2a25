"""The view of a group that credit schemes get: samples, and nodes where they share segments."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from irg_rl.credit.statistics import mean
from irg_rl.trajectory import Group, ImageSegment, Modality, Segment, TextSegment, Trajectory

Place = tuple[int, Modality]
ForkBranch = tuple[int, int]
"""id() of the segment before a fork (0: the prompt), and id() of the first segment of one of its branches."""
Advantages = list[dict[Place, float]]
"""One dict per sample: place -> advantage. A place that is left out is not trained."""
Node = tuple[int, list[int]]
"""id() of a segment, and indices of the samples through it."""


@dataclass(frozen=True)
class Sample:
    """A trajectory as credit schemes see it: image values, segments, and how it ended."""

    q: list[float]
    path: dict[Place, int]  # id() of its segments, in order
    branches: dict[Place, ForkBranch]  # the last fork before each segment, and the branch taken there
    stopped: bool
    malformed: frozenset[Place] = field(default_factory=frozenset)
    right: tuple[bool, ...] = ()  # whether each image is right; only for schemes with asks_if_right
    scores: Mapping[Place, float] = field(default_factory=dict)  # of its reflections and edits, where scorers gave them

    @property
    def places(self) -> list[Place]:
        return list(self.path)

    def value(self, turn: int) -> float:
        """Value of the state after `turn`: that of its image, or after a stop that of the last image."""
        return self.q[min(turn, len(self.q) - 1)]

    def gain(self, turn: int) -> float:
        """Change of the value by `turn`. Before the first image the value is 0."""
        return self.value(turn) - (self.value(turn - 1) if turn else 0.0)

    def is_right(self, turn: int) -> bool:
        """Whether the newest image after `turn` is right."""
        return self.right[min(turn, len(self.right) - 1)]


def place_of(segment: Segment) -> Place:
    return segment.turn, Modality.IMAGE if isinstance(segment, ImageSegment) else Modality.TEXT


def sample_of(
    trajectory: Trajectory,
    q: list[float],
    forks: set[int],
    right: tuple[bool, ...] = (),
    scores: Mapping[Place, float] | None = None,
) -> Sample:
    turns = [image.turn for image in trajectory.images]
    if turns != list(range(len(turns))):
        raise ValueError(f"sample {trajectory.sample} has images of turns {turns}: expected one per turn from 0")
    malformed = {place_of(s) for s in trajectory.segments if isinstance(s, TextSegment) and not s.finished}
    path = {place_of(s): id(s) for s in trajectory.segments}
    branches, before, branch = {}, 0, (0, 0)
    for place, segment in path.items():
        if not before or before in forks:
            branch = (before, segment)
        branches[place], before = branch, segment
    return Sample(q, path, branches, trajectory.stopped, frozenset(malformed), right, scores or {})


def by_trunk(trajectories: Sequence[Trajectory], values: Sequence[float]) -> list[float]:
    """Values of trajectories -> one value per trunk, the mean over its branches. Without forks nothing changes."""
    paths = [tuple(map(id, trajectory.segments)) for trajectory in trajectories]
    trunks: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        trunks[path[0]].append(i)
    return [mean_of_branches(paths, members, values, 1) for members in trunks.values()]


def mean_of_branches(
    paths: Sequence[tuple[int, ...]], members: Sequence[int], values: Sequence[float], depth: int
) -> float:
    """Value of a node: the mean over its branches. `members` are the trajectories through it, which share their first
    `depth` segments. `paths`: id() of the segments of all trajectories. `values`: one per trajectory."""
    if len(members) == 1:
        return values[members[0]]
    ways: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in members:
        ways[paths[i][depth : depth + 1]].append(i)
    if () in ways:  # nothing follows: the same trajectory several times
        return mean([values[i] for i in members])
    return mean([mean_of_branches(paths, own, values, depth + 1) for own in ways.values()])


def populations(samples: Sequence[Sample]) -> dict[tuple[Place, int], list[Node]]:
    """(place, fork) -> the nodes at this place that come from this fork. They are compared with each other."""
    found: dict[tuple[Place, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples):
        for place, segment in sample.path.items():
            found[place, sample.branches[place][0]][segment].append(i)
    return {key: list(nodes.items()) for key, nodes in found.items()}


def node_values(samples: Sequence[Sample], nodes: Sequence[Node], values: Sequence[float]) -> list[float]:
    """Values of samples -> values of nodes."""
    paths = [tuple(sample.path.values()) for sample in samples]
    return [
        mean_of_branches(paths, members, values, paths[members[0]].index(segment) + 1) for segment, members in nodes
    ]


def enter(table: Advantages, place: Place, nodes: Sequence[Node], advantages: Sequence[float]) -> None:
    for (_, members), advantage in zip(nodes, advantages):
        for i in members:
            table[i][place] = advantage


def per_place(
    samples: Sequence[Sample],
    value: Callable[[Sample, Place], float],
    centre: Callable[[list[float]], list[float]],
) -> Advantages:
    """Advantages from `value(sample, place)`, centred over the nodes at a place that come from the same fork."""
    table: Advantages = [{} for _ in samples]
    for (place, _), nodes in populations(samples).items():
        own = [value(s, place) if place in s.path else 0.0 for s in samples]
        enter(table, place, nodes, centre(node_values(samples, nodes, own)))
    return table


def broadcast(samples: Sequence[Sample], advantages: Sequence[float], first_turn: int = 0) -> Advantages:
    """Give all segments of a sample from `first_turn` on the same advantage."""
    return [{p: a for p in sample.places if p[0] >= first_turn} for sample, a in zip(samples, advantages)]


def write(group: Group, rows: Mapping[int, Mapping[Place, float]]) -> None:
    """Store the advantages (index of the trajectory -> row) in the segments. None: no advantage."""
    for segment in group.segments:
        segment.advantage = None
    for i, row in rows.items():
        for segment in group.trajectories[i].segments:
            segment.advantage = row.get(place_of(segment))

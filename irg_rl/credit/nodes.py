"""The data that credit schemes (functions that compute advantages) get: the samples of a group, and nodes. A node is a
segment together with all samples that contain this segment.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from irg_rl.credit.statistics import mean
from irg_rl.trajectory import Group, ImageSegment, Modality, Segment, TextSegment, Trajectory

Place = tuple[int, Modality]
"""The place of a segment in its trajectory: (turn, text or image)."""
ForkBranch = tuple[int, int]
"""A branch after a fork: (id of the segment before the fork, id of the first segment of the branch). The id is that of
Python's id(), or 0 if the fork is directly after the prompt.
"""
Advantages = list[dict[Place, float]]
"""One dict for each sample. It maps a place, (turn, modality), to the advantage of the segment at this place. A segment
whose place is missing is not trained.
"""
Node = tuple[int, list[int]]
"""A node: (Python's id() of a segment, indices of the samples that contain this segment)."""


@dataclass(frozen=True)
class Sample:
    """A trajectory in the form that credit schemes get: the rewards of its images, its segments, and how it ended."""

    q: list[float]  # combined reward of each image
    path: dict[Place, int]  # Python's id() of each segment, in order
    branches: dict[Place, ForkBranch]  # for each segment: the last fork before it, and the branch taken at that fork
    stopped: bool  # whether it ended with a stop
    malformed: frozenset[Place] = field(default_factory=frozenset)  # places of texts that were cut off
    right: tuple[bool, ...] = ()  # whether each image is right; only for schemes with asks_if_right
    scores: Mapping[Place, float] = field(default_factory=dict)  # scores of reflections and edits that scorers gave

    @property
    def places(self) -> list[Place]:
        return list(self.path)

    def value(self, turn: int) -> float:
        """Return the value of the trajectory after `turn`. This is the reward of the image of `turn`. If the trajectory
        stopped before this image, the value is the reward of the last image.
        """
        return self.q[min(turn, len(self.q) - 1)]

    def gain(self, turn: int) -> float:
        """Return the change of the trajectory's value in `turn`. The value is the reward of the newest image. Before
        the first image, the value is 0."""
        return self.value(turn) - (self.value(turn - 1) if turn else 0.0)

    def is_right(self, turn: int) -> bool:
        """Return whether the image of `turn` is right (completely correct). If the sample stopped before it drew this
        image, return whether its last image is right."""
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
    """Return one value for each different first segment: the mean of the values of all trajectories that begin with
    this segment. `values` has one value for each trajectory.

    At a fork, trajectories with the same beginning separate into branches. If there are forks after the first segment,
    each branch of a fork counts once, however many trajectories it contains. Without forks the result is equal to
    `values`.
    """
    paths = [tuple(map(id, trajectory.segments)) for trajectory in trajectories]
    trunks: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        trunks[path[0]].append(i)
    return [mean_of_branches(paths, members, values, 1) for members in trunks.values()]


def mean_of_branches(
    paths: Sequence[tuple[int, ...]], members: Sequence[int], values: Sequence[float], depth: int
) -> float:
    """Return the value of a node (a segment together with all trajectories that contain it). If only one trajectory
    contains the segment, the node has the value of this trajectory. Otherwise its value is the mean of the values of
    the branches that follow the segment. The value of a branch is computed in the same way.

    Args:
        paths: For each trajectory, Python's id() of its segments.
        members: Indices of the trajectories that contain the node. They share their first `depth` segments.
        values: One value for each trajectory.
    """
    if len(members) == 1:
        return values[members[0]]
    ways: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in members:
        ways[paths[i][depth : depth + 1]].append(i)
    if () in ways:  # no segment follows: the members are the same trajectory several times
        return mean([values[i] for i in members])
    return mean([mean_of_branches(paths, own, values, depth + 1) for own in ways.values()])


def populations(samples: Sequence[Sample]) -> dict[tuple[Place, int], list[Node]]:
    """Put the nodes into sets. The nodes of one set are compared with each other. A node is a segment together with all
    samples that contain it. Two nodes are in the same set if they have the same place (turn and modality) and the same
    last fork before them. At a fork, samples with the same beginning separate.

    Return a dict from (place, fork) to the list of the nodes. A fork is given by Python's id() of the segment before
    it, or by 0 if no segment is before it.
    """
    found: dict[tuple[Place, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples):
        for place, segment in sample.path.items():
            found[place, sample.branches[place][0]][segment].append(i)
    return {key: list(nodes.items()) for key, nodes in found.items()}


def node_values(samples: Sequence[Sample], nodes: Sequence[Node], values: Sequence[float]) -> list[float]:
    """Convert values of samples to values of nodes. A node is a segment together with all samples that contain it.
    `mean_of_branches` computes the value of a node from the values of its samples.
    """
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
    """Compute an advantage for every segment, and return the advantages. A node is a segment together with all samples
    that contain it. A place is the pair (turn, modality).

    `value(sample, place)` returns the value of a sample at a place. From the values of the samples, `node_values`
    computes the values of the nodes. Then `centre` turns a list of values of nodes into a list of advantages. `centre`
    is called once for each set of nodes that are compared with each other. The nodes of such a set have the same place
    and come from the same fork (a point where samples with the same beginning separate).
    """
    table: Advantages = [{} for _ in samples]
    for (place, _), nodes in populations(samples).items():
        own = [value(s, place) if place in s.path else 0.0 for s in samples]
        enter(table, place, nodes, centre(node_values(samples, nodes, own)))
    return table


def broadcast(samples: Sequence[Sample], advantages: Sequence[float], first_turn: int = 0) -> Advantages:
    """Give all segments of a sample the same advantage, and return the advantages of all segments. `advantages` has one
    number for each sample. Segments of turns before `first_turn` get no advantage."""
    return [{p: a for p in sample.places if p[0] >= first_turn} for sample, a in zip(samples, advantages)]


def write(group: Group, rows: Mapping[int, Mapping[Place, float]]) -> None:
    """Store the advantages in the segments of the group. The keys of `rows` are indices of trajectories. The value of a
    key is a dict from a place, the pair (turn, modality), to an advantage. A segment without an advantage gets None."""
    for segment in group.segments:
        segment.advantage = None
        if isinstance(segment, TextSegment):
            segment.token_advantages = None
    for i, row in rows.items():
        for segment in group.trajectories[i].segments:
            segment.advantage = row.get(place_of(segment))

"""Credit assignment: compute an advantage for every text segment and image segment from the scores of a group's images.
(A group is all samples of one prompt.)

q_k is the combined reward of the image of turn k, with k = 0 ... last. In a turn, the text comes before the image. The
text gets credit for what follows it. The value of a trajectory after a turn is the reward of its newest image. So the
value of the whole trajectory is the reward of its last image. The gain of a turn is the change of the value in this
turn. A turn that has a text but no image is a stop: the model has ended the trajectory. A stop does not change the
value, so the gain of its turn is 0. If the samples of a group have different numbers of turns, the scheme `trajectory`
compares their final images.

A *place* is a position in a trajectory: (turn, text or image). The advantage of a segment says how good it is compared
with the segments of the other samples at the same place. A stop is a text. So it is compared with the texts of other
samples in the same turn. Some of these texts may ask for an edit of the image. If an image has no score, its trajectory
is left out of the statistics and is not trained (its advantages are None).

Trajectories may share their first segments. The point where they separate is a fork. The parts after the fork are its
branches. A *node* is a segment together with all trajectories that contain it. If only one trajectory contains the
segment, the node has the value of this trajectory. Otherwise the value of the node is the mean over the branches of the
next fork. The value of a branch is computed by the same rule. So each branch counts once, even if it forks again later.

Two nodes are compared with each other if they have the same place and the same last fork before them. So the branches
of a fork are compared with each other. The segments before the fork are shared by these branches. They are compared
with other trajectories. Without forks, every node belongs to one trajectory.

To use your own scheme, write a `CreditScheme` in any module. Name it in the recipe by its path, for example
`rl.credit: my.module:MY_SCHEME`. The function of the scheme gets the `Sample`s of a group. It returns a list with one
dict for each sample. The dict maps places to advantages. The functions `per_place` and `normalised` help with the
comparison. docs/methods.md has worked examples of every scheme.
"""

from irg_rl.credit.assign import Summary, assign, combine
from irg_rl.credit.nodes import Advantages, Place, Sample, broadcast, by_trunk, mean_of_branches, per_place
from irg_rl.credit.scheme import SCHEMES, CreditScheme, NormalisedOptions, Right, RightOptions, carried, scheme_named
from irg_rl.credit.statistics import normalise, normalised

__all__ = [
    "SCHEMES",
    "Advantages",
    "CreditScheme",
    "NormalisedOptions",
    "Place",
    "Right",
    "RightOptions",
    "Sample",
    "Summary",
    "assign",
    "broadcast",
    "by_trunk",
    "carried",
    "combine",
    "mean_of_branches",
    "normalise",
    "normalised",
    "per_place",
    "scheme_named",
]

"""Credit assignment: from the scores of a group's images to an advantage for every text and image segment.

q_k is the combined reward of the image of turn k, k = 0 ... last. Text k comes before image k and gets credit for what
follows it. A text without an image in its turn is a stop. After a stop, the value of the trajectory stays that of its
last image, so the gain of a stop is 0. If siblings have different numbers of turns, the scheme `trajectory` compares
their final images.

A *place* is (turn, modality). The advantage of a segment compares it with its siblings' segments at the same place. So
a stop is compared with the edits of its siblings. If an image has no score, its trajectory is left out of the
statistics and is not trained (advantage None).

With forks, a *node* is a segment together with all trajectories through it. The value of a node is the mean over its
branches, and the value of a branch is again the mean over its own branches. So a branch counts once, even if it forks
later. A node is compared with nodes at the same place that come from the same last fork. Siblings of a fork are thus
each other's baseline, and what they share is compared with other trunks. Without forks, every node is one trajectory.

Your own scheme is a `CreditScheme` in any module: `rl.credit: my.module:MY_SCHEME`. Its function gets the `Sample`s of
a group and returns one dict per sample, place -> advantage. `per_place` and `normalised` make the comparison.
docs/methods.md has worked examples of every scheme.
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

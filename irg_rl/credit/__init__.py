"""From the scores of a group's images to an advantage on every text and image segment.

q_k is the combined reward of the image of turn k, k = 0 ... last. Text k is written before image k and is credited
with what follows it. A text without an image of its turn is a stop: from there on the trajectory is worth its last
image, so what a stop gains is 0, and in groups of mixed lengths `trajectory` compares final images. A *place* is
(turn, modality). An advantage compares a segment with the segments of its siblings at the same place, so a stop is
compared with its siblings' edits.

An image that could not be scored removes its trajectory from the statistics and from training (advantage None).

Where siblings fork, a *node* is a segment with all trajectories through it. Its value is the mean over its branches,
each of them the mean over its own: however often one forks later, or stops before it can, it counts once. A node is
compared with the nodes of its place that come from the same fork, the last one before it: siblings, which share all
that precedes the fork, are each other's baseline, and what they share is compared with other trunks. Without forks
every node is one trajectory, and all come from the prompt.

A scheme of one's own is a `CreditScheme` in any module: `rl.credit: my.module:MY_SCHEME`. Its function gets the
`Sample`s of a group and gives one dict per sample, from place to advantage. `per_place` and `normalised` do the
comparing. Worked examples of every scheme: docs/methods.md.
"""

from irg_rl.credit.assign import Summary, assign, combine
from irg_rl.credit.nodes import Advantages, Place, Sample, broadcast, by_trunk, mean_of_branches, per_place
from irg_rl.credit.scheme import SCHEMES, CreditScheme, NormalisedOptions, Right, RightOptions, carried, scheme_named
from irg_rl.credit.statistics import normalise, normalised

__all__ = [
    "SCHEMES",
    "CreditScheme",
    "NormalisedOptions",
    "Place",
    "Right",
    "RightOptions",
    "Sample",
    "Summary",
    "Advantages",
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

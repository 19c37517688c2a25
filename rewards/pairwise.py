"""Scores for a group of images from comparisons of two images at a time."""

from collections.abc import Sequence
from itertools import combinations

from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Preferring, Score


def win_rates(count: int, preferences: Sequence[Preference | None]) -> list[Score]:
    """Return one score in [0, 1] per image: the mean probability that the image is better than another image of its
    group. With P(i, j), the probability that image i is better than image j,

        score_i = mean over j != i of P(i, j)

    `preferences` has one entry for each pair (i, j) with i < j, in the order of itertools.combinations. None means that
    the comparison failed. Such a pair is left out of the means of both images. The score of an image is None if more
    than half of its comparisons failed. The mean score of a group without failures is 1/2.

    >>> win_rates(2, [Preference(0.75, 0.75)])
    [0.75, 0.25]
    """
    won: list[list[float]] = [[] for _ in range(count)]
    for (i, j), preference in zip(combinations(range(count), 2), preferences, strict=True):
        if preference is not None:
            won[i].append(preference.mean)
            won[j].append(1 - preference.mean)
    return [sum(own) / len(own) if own and 2 * len(own) >= count - 1 else None for own in won]


def compare_all(judge: Preferring, images: list[Image], prompt: Prompt) -> list[Score]:
    """Let a judge compare every image of a group with every other one, and return the win rates. For n images these are
    n (n - 1) / 2 comparisons. If there is only one image, its score is 1/2."""
    if len(images) == 1:
        return [0.5]
    pairs = list(combinations(range(len(images)), 2))
    first, second = [images[i] for i, _ in pairs], [images[j] for _, j in pairs]
    return win_rates(len(images), judge.prefer([prompt] * len(pairs), first, second))

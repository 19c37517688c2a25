"""Scores of images, and the figures (reported numbers) that a suite computes from them.

Every score is a ratio of two numbers, `top / bottom`. For a single verdict, `top` is 0 or 1 and `bottom` is 1. If an
image has five questions and three right answers, `top` is 3 and `bottom` is 5. A *leaf* is a ratio over several
prompts: the sum of all tops divided by the sum of all bottoms. A *figure* is computed from leaves, as their weighted
mean or by another function.

Shape letters: R resamples, L leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Key(NamedTuple):
    """The key of one score: the prompt id, the number of the image (counted within the prompt), and the name of the
    metric."""

    prompt: str
    sample: int
    metric: str


class ItemScore(NamedTuple):
    top: float
    bottom: float = 1.0


@dataclass
class Results:
    """The scores of one folder of images, as read from official result files or computed from the answers of a judge.
    `problems` is a list of messages about entries that could not be used. Each message names the file and, if possible,
    the line."""

    source: str = ""
    """Where the scores come from, as a text: official files or a judge. Empty if there are no results."""
    scores: dict[Key, ItemScore] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, key: Key, top: float, bottom: float = 1.0) -> None:
        self.scores[key] = ItemScore(float(top), float(bottom))


@dataclass(frozen=True)
class Leaf:
    """A ratio from which a figure (reported number) is computed. Every score of an image is stored as a ratio, top /
    bottom, for example 3 right answers / 5 questions. The leaf uses the scores of `metric` for all images of the given
    prompts. Its value is the sum of their tops divided by the sum of their bottoms. `weight` is the weight of the leaf
    in the figure."""

    metric: str
    prompts: frozenset[str]
    weight: float = 1.0


Combine = Callable[[Float[np.ndarray, "... L"]], Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class Figure:
    """A reported number that is computed from leaves (ratios of two sums over some prompts). `combine` is the function
    that computes it from the values of the leaves; None means their weighted mean. The report shows a headline figure
    twice: with missing scores counted as the worst score, and without them."""

    name: str
    leaves: tuple[Leaf, ...]
    combine: Combine | None = None
    is_headline: bool = False

    def of(self, values: Float[np.ndarray, "... L"]) -> Float[np.ndarray, "..."]:
        """Compute the figure from the values of its leaves, which are on the last axis of `values`. A leaf without any
        scores has the value nan; the result is then nan."""
        if self.combine is not None:
            return self.combine(values)
        weights = np.array([leaf.weight for leaf in self.leaves])
        return values @ weights / weights.sum()


def mean_of(name: str, metric: str, prompts: frozenset[str], is_headline: bool = False) -> Figure:
    """Return a figure (reported number) with the name `name`: the plain mean of the metric `metric` over all cases of
    the given prompts. A case is, for example, one verdict or one question. `prompts` are the ids of the prompts.
    `is_headline` says whether the figure is one of the main results."""
    return Figure(name, (Leaf(metric, prompts),), is_headline=is_headline)

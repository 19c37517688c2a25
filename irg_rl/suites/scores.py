"""Scores of pictures, and the figures (reported numbers) that a suite computes from them.

Every score is a ratio of two sums, `top / bottom`. A single case has top 0 or 1 and bottom 1; five questions with three
right answers have top 3 and bottom 5. A *leaf* is the ratio of the sum of tops to the sum of bottoms over some prompts.
A *figure* is a weighted mean, or another function, of leaves.

Shape letters: R resamples, L leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Key(NamedTuple):
    """The key of one score: prompt id, number of the picture of this prompt, and name of the metric."""

    prompt: str
    sample: int
    metric: str


class ItemScore(NamedTuple):
    top: float
    bottom: float = 1.0


@dataclass
class Results:
    """The scores of a tree (a folder of images) from one source. `problems` lists entries that could not be used, with
    file and line."""

    source: str = ""
    """Where the scores come from: official files or a judge."""
    scores: dict[Key, ItemScore] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, key: Key, top: float, bottom: float = 1.0) -> None:
        self.scores[key] = ItemScore(float(top), float(bottom))


@dataclass(frozen=True)
class Leaf:
    """Part of a figure: a ratio of two sums over the scores of `metric` for these prompts. `weight` is its weight in
    the figure."""

    metric: str
    prompts: frozenset[str]
    weight: float = 1.0


Combine = Callable[[Float[np.ndarray, "... L"]], Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class Figure:
    """A reported number, computed from leaves (ratios of sums over some prompts). `combine` computes it from the values
    of the leaves; None: it is their weighted mean. Headline figures are also reported without missing scores."""

    name: str
    leaves: tuple[Leaf, ...]
    combine: Combine | None = None
    is_headline: bool = False

    def of(self, values: Float[np.ndarray, "... L"]) -> Float[np.ndarray, "..."]:
        """Compute the figure from the values of its leaves. The result is nan if the value of a leaf is nan because it
        has no cases."""
        if self.combine is not None:
            return self.combine(values)
        weights = np.array([leaf.weight for leaf in self.leaves])
        return values @ weights / weights.sum()


def mean_of(name: str, metric: str, prompts: frozenset[str], is_headline: bool = False) -> Figure:
    """Return a figure that is the plain mean over all cases of the given prompts."""
    return Figure(name, (Leaf(metric, prompts),), is_headline=is_headline)

"""Scores of pictures, and the figures that a suite computes from them.

Every score is a pair of sums, `top / bottom`: one case is 0 or 1 over 1, five questions of which three are right are
3 over 5. A *leaf* is the ratio of both sums over some prompts; a *figure* is a weighted mean of leaves (or another
function of them). Letters: R resamples, L leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Key(NamedTuple):
    """Identifies one score: a prompt, a picture of it, and the metric."""

    prompt: str
    sample: int
    metric: str


class ItemScore(NamedTuple):
    top: float
    bottom: float = 1.0


@dataclass
class Results:
    """Scores of a tree from one source. `problems` lists what could not be used, with file and line."""

    source: str = ""
    """The source of the scores: official files or a judge."""
    scores: dict[Key, ItemScore] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, key: Key, top: float, bottom: float = 1.0) -> None:
        self.scores[key] = ItemScore(float(top), float(bottom))


@dataclass(frozen=True)
class Leaf:
    """The ratio of sums over the scores of `metric` for these prompts, and its weight in the figure."""

    metric: str
    prompts: frozenset[str]
    weight: float = 1.0


Combine = Callable[[Float[np.ndarray, "... L"]], Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class Figure:
    """A figure. `combine` computes it from the values of the leaves. None: their weighted mean. A headline figure is
    also shown without missing scores."""

    name: str
    leaves: tuple[Leaf, ...]
    combine: Combine | None = None
    is_headline: bool = False

    def of(self, values: Float[np.ndarray, "... L"]) -> Float[np.ndarray, "..."]:
        """The figure from the values of its leaves. nan if a leaf has no case."""
        if self.combine is not None:
            return self.combine(values)
        weights = np.array([leaf.weight for leaf in self.leaves])
        return values @ weights / weights.sum()


def mean_of(name: str, metric: str, prompts: frozenset[str], is_headline: bool = False) -> Figure:
    """A figure that is the plain mean over all cases of some prompts."""
    return Figure(name, (Leaf(metric, prompts),), is_headline=is_headline)

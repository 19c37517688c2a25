"""Compute figures (reported numbers) with intervals from scores, and the differences of the figures between two trees
(folders of images).

Each figure is computed twice: with missing scores counted as the worst score, and without missing scores. Intervals are
percentile bootstraps over prompts, so several images of one prompt do not count as independent. Prompts are resampled
within each stratum (`Suite.stratum`, for example a category), so each stratum keeps its number of prompts. Differences
are paired: the two trees use the same resampled prompts, and a score counts only if it exists in each of them.

Shape letters: P prompts, R resamples, L leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16

from irg_rl.evaluate.intervals import LEVEL, Measure, Terms, proportion
from irg_rl.suites.base import Suite
from irg_rl.suites.scores import Figure, ItemScore, Key, Leaf, Results
from irg_rl.trajectory import Prompt

Scores = Mapping[Key, ItemScore]
RESAMPLES = 2000
"""Number of resamples of the bootstrap over prompts."""


@dataclass(frozen=True)
class Row:
    """One figure (reported number) of a tree (a folder with the images of one turn), computed from the scores of one
    source: official result files or a judge. `expected` is the number of scores that the figure needs, and `missing` is
    how many of them are missing."""

    figure: str
    value: Measure
    """Value of the figure (reported number), with missing scores counted as the worst score. In contrast, the field
    `judged` has the value that is computed without the missing scores."""
    judged: Measure
    expected: int
    missing: int
    is_headline: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"figure": self.figure, "value": self.value.to_dict(), "judged_only": self.judged.to_dict(),
                "expected": self.expected, "missing": self.missing}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The difference of one figure (reported number) between two folders of images, which are called "before" and
    "after". The difference is "after" minus "before". A score counts only if it exists in each of the two folders.
    `left_out` is the number of expected scores that are missing in at least one of the two folders."""

    figure: str
    gained: Measure
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        return {"figure": self.figure, "gained": self.gained.to_dict(), "left_out": self.left_out}


class Table:
    """A calculator of figures (reported numbers) for one suite and one set of prompts. It works on several trees
    (folders with the images of one turn). All trees have the same figures and the same resampled prompts, from which
    the intervals are computed."""

    def __init__(self, suite: Suite, prompts: Sequence[Prompt], resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.suite, self.prompts = suite, list(prompts)
        self.figures = suite.figures(self.prompts)
        self.expected = suite.expected(self.prompts)
        self.place = {prompt.id: i for i, prompt in enumerate(self.prompts)}
        self.weights = _weights([suite.stratum(p) for p in self.prompts], resamples, seed)

    def rows(self, results: Results) -> list[Row]:
        judged = {key: results.scores[key] for key in self.expected if key in results.scores}
        whole = self._with_worst(judged)
        return [self._row(figure, whole, judged) for figure in self.figures]

    def differences(self, before: Results, after: Results) -> list[Difference]:
        both = [key for key in self.expected if key in before.scores and key in after.scores]
        sides = [{key: results.scores[key] for key in both} for results in (before, after)]
        rows = []
        for figure in self.figures:
            keys = self._keys(figure)
            one, two = (self._measured(figure, side) for side in sides)
            n = len({key.prompt for key in both if key in keys})
            gained = _measure(two[0] - one[0], n, two[1] - one[1])  # nan if one side has no cases
            rows.append(Difference(figure.name, gained, len(keys) - len(keys.intersection(both))))
        return rows

    def _row(self, figure: Figure, whole: Scores, judged: Scores) -> Row:
        keys = self._keys(figure)
        there = [key for key in keys if key in judged]
        value, only = self._with_interval(figure, whole, len(keys)), self._with_interval(figure, judged, len(there))
        return Row(figure.name, value, only, len(keys), len(keys) - len(there), figure.is_headline)

    def _with_interval(self, figure: Figure, scores: Scores, n: int) -> Measure:
        """Return the value of a figure (reported number) with its interval. If the figure is a share of right images,
        this is Wilson's interval, which is also valid near 0 and 1. For any other figure, it is the bootstrap interval.
        `n` is the number of scores, which is stored with the result."""
        if len(figure.leaves) == 1 and figure.combine is None:
            leaf = figure.leaves[0]
            mine = [(k, s) for k, s in scores.items() if k.metric == leaf.metric and k.prompt in leaf.prompts]
            if mine and all(s.bottom == 1 and s.top in (0, 1) for _, s in mine):
                top = np.array([s.top for _, s in mine])
                return proportion(Terms(top, np.ones(len(mine)), [k.prompt for k, _ in mine]))
        value, drawn = self._measured(figure, scores)
        return _measure(value, n, drawn)

    def _keys(self, figure: Figure) -> set[Key]:
        wanted = [(leaf.metric, leaf.prompts) for leaf in figure.leaves]
        return {key for key in self.expected if any(key.metric == m and key.prompt in ids for m, ids in wanted)}

    def _with_worst(self, judged: Scores) -> dict[Key, ItemScore]:
        """Return all expected scores. Scores in `judged` are unchanged. Each missing score is replaced by the worst
        score of its metric. `Suite.weight` says for how many cases (for example questions) a missing score counts; this
        is its `bottom`. If `Suite.weight` returns None, the mean `bottom` of the existing scores of the same metric is
        used."""
        by_id = {prompt.id: prompt for prompt in self.prompts}
        usual: dict[str, list[float]] = {}
        for key, score in judged.items():
            usual.setdefault(key.metric, []).append(score.bottom)
        whole = {}
        for key in self.expected:
            if key in judged:
                whole[key] = judged[key]
                continue
            known = self.suite.weight(by_id[key.prompt], key.metric)
            bottom = float(np.mean(usual.get(key.metric, [1.0]))) if known is None else known
            whole[key] = ItemScore(self.suite.worst.get(key.metric, 0.0) * bottom, bottom)
        return whole

    def _measured(self, figure: Figure, scores: Scores) -> tuple[float, Float[np.ndarray, "R"]]:
        """Return two results: the value of the figure (reported number), and an array with its value in every resample.
        A figure is computed from leaves (ratios of two sums over some prompts). If a leaf has scores of only one prompt
        or none, the resampled values are nan. Otherwise all resamples of this leaf would be equal, and the interval too
        narrow."""
        sums = [self._sums(leaf, scores) for leaf in figure.leaves]
        with np.errstate(divide="ignore", invalid="ignore"):
            point = np.array([top.sum() / bottom.sum() if bottom.sum() else np.nan for top, bottom in sums])
            drawn = np.stack([self._resampled(top, bottom) for top, bottom in sums], axis=-1)
        alone = [(bottom > 0).sum() < 2 for _, bottom in sums]
        drawn[:, alone] = np.nan
        return float(figure.of(point)), figure.of(drawn)

    def _resampled(self, top: Float[np.ndarray, "P"], bottom: Float[np.ndarray, "P"]) -> Float[np.ndarray, "R"]:
        members = np.flatnonzero(bottom)  # a leaf often uses only a few of the prompts
        weights = self.weights[:, members].astype(float)
        return (weights @ top[members]) / (weights @ bottom[members])

    def _sums(self, leaf: Leaf, scores: Scores) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]:
        top, bottom = np.zeros(len(self.prompts)), np.zeros(len(self.prompts))
        for key, score in scores.items():
            if key.metric == leaf.metric and key.prompt in leaf.prompts:
                top[self.place[key.prompt]] += score.top
                bottom[self.place[key.prompt]] += score.bottom
        return top, bottom


def _weights(strata: Sequence[str], resamples: int, seed: int) -> UInt16[np.ndarray, "R P"]:
    """Return how often each prompt is drawn in each resample, as an array [R, P]. `strata` has, for each prompt, the
    name of its stratum (for example its category). In every resample, as many prompts are drawn from each stratum as
    the stratum has."""
    weights = np.zeros((resamples, len(strata)), dtype=np.uint16)
    generator = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    for mine in members.values():
        weights[:, mine] = generator.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), resamples)
    return weights


def _measure(value: float, n: int, drawn: Float[np.ndarray, "R"]) -> Measure:
    finite = drawn[np.isfinite(drawn)]
    if finite.size == 0 or not np.isfinite(value):
        return Measure(value, n)
    low, high = np.quantile(finite, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Measure(value, n, float(low), float(high))

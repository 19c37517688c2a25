"""Pure functions that compare lists of numbers: how well two scorers agree, how often a scorer puts a pair in the right
order, how much noise it has. Intervals are clustered by prompt (irg_rl/evaluate/intervals.py): images of one prompt are
not independent.

Letters in shapes: N images, R rounds (equal calls), P pairs.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from irg_rl.evaluate.intervals import Measure, Terms, mean, proportion

RESAMPLES = 400
"""Number of resamples of the bootstrap over prompts, for rank correlations over all images."""
LEAST = 3
"""Smallest number of images for a rank correlation."""
Numbers = Float[np.ndarray, "N"]


def ranks(values: Numbers) -> Numbers:
    """Return the rank of each value, from 1. Equal values get the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    _, group, sizes = np.unique(values[order], return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    found = np.empty(len(values))
    found[order] = ((last - sizes + 1 + last) / 2)[group]
    return found


def spearman(a: Numbers, b: Numbers) -> float:
    """Return Spearman's rank correlation: Pearson's correlation of the ranks, with mean ranks for equal values. nan if
    there are fewer than LEAST values, or if all values of one side are equal."""
    if len(a) < LEAST:
        return float("nan")
    return pearson(ranks(a), ranks(b))


def pearson(a: Numbers, b: Numbers) -> float:
    """Return Pearson's correlation, or nan if all values of one side are equal."""
    one, other = a - a.mean(), b - b.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / scale) if scale > 0 else float("nan")


def spearman_over_all(a: Numbers, b: Numbers, prompts: Sequence[str], seed: int = 0) -> Measure:
    """Return Spearman's rank correlation of two scorers over all images. Its interval is a percentile bootstrap over
    prompts: all images of a prompt are drawn together. nan counts as a failed score, and its image is left out."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b, prompts = a[known], b[known], [p for p, is_known in zip(prompts, known) if is_known]
    value, names = spearman(a, b), sorted(set(prompts))
    if len(names) < 2 or not np.isfinite(value):
        return Measure(value, len(a), sets=len(names))
    members = {name: np.flatnonzero([p == name for p in prompts]) for name in names}
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))])
        drawn.append(spearman(a[chosen], b[chosen]))
    finite = [one for one in drawn if np.isfinite(one)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite else (np.nan, np.nan)
    return Measure(value, len(a), float(low), float(high), sets=len(names))


def spearman_within(a: Numbers, b: Numbers, cells: Sequence[str], prompts: Sequence[str]) -> Measure:
    """Return the mean, over the cells, of Spearman's rank correlation inside a cell. A cell is a set of images that
    compete with each other, such as the images of a group in one turn. Cells where one side does not tell any two
    images apart are left out. `n` is the number of cells that count."""
    found = []
    for places in members_of(cells):
        known = places[np.isfinite(a[places]) & np.isfinite(b[places])]
        rho = spearman(a[known], b[known])
        if np.isfinite(rho):
            found.append((rho, prompts[places[0]]))
    values = np.array([rho for rho, _ in found])
    return mean(Terms(values, np.ones(len(values)), [prompt for _, prompt in found]))


def members_of(names: Sequence[str]) -> Iterator[Int[np.ndarray, "N"]]:
    """Yield the places of equal names, one array for each name, in the order in which the names first occur."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    for found in places.values():
        yield np.array(found)


def pairs_within(cells: Sequence[str]) -> Int[np.ndarray, "P 2"]:
    """Return all pairs of places that are in the same cell."""
    found = [pair for places in members_of(cells) for pair in combinations(places.tolist(), 2)]
    return np.array(found, dtype=int).reshape(-1, 2)


def order_terms(gaps: Float[np.ndarray, "P"], truth: Float[np.ndarray, "P"], prompts: Sequence[str]) -> Terms:
    """Return the terms of the share of pairs that a scorer puts in the right order.

    `gaps` has the score of the first image minus that of the second one, and `truth` is above 0 if the first one is
    really better. Equal scores count half. Pairs that are equal in truth, and pairs with a failed score (nan), do not
    count.
    """
    counts = (np.isfinite(gaps) & np.isfinite(truth) & (truth != 0)).astype(float)
    right = np.where(gaps == 0, 0.5, gaps * truth > 0)
    return Terms(np.where(counts > 0, right, 0.0), counts, list(prompts))


def share(terms: Terms) -> Measure:
    """Return a share with Wilson's interval, clustered by prompt. Ties count half, so the variance is at most that of a
    share of ones; the interval uses the variance that was found."""
    return proportion(terms)


def noise_of(rounds: Float[np.ndarray, "R N"]) -> float:
    """Return the standard deviation of the noise of one score: the root of the mean variance between equal calls,

        sqrt( mean_i  sum_r (s_ri - mean_r s_ri)^2 / (R - 1) ).

    Images with a failed score (nan) in some round are left out. nan if there are fewer than two rounds."""
    whole = rounds[:, np.isfinite(rounds).all(axis=0)]
    if len(rounds) < 2 or whole.shape[1] == 0:
        return float("nan")
    return float(np.sqrt(whole.var(axis=0, ddof=1).mean()))


def spread_within(values: Numbers, cells: Sequence[str]) -> float:
    """Return the standard deviation inside cells, pooled: sqrt( sum (s - mean of its cell)^2 / sum (n_c - 1) )."""
    top, freedom = 0.0, 0
    for places in members_of(cells):
        known = values[places][np.isfinite(values[places])]
        if len(known) > 1:
            top, freedom = top + float(np.square(known - known.mean()).sum()), freedom + len(known) - 1
    return float(np.sqrt(top / freedom)) if freedom else float("nan")


def correlation_within(a: Numbers, b: Numbers, cells: Sequence[str]) -> float:
    """Return Pearson's correlation of two scorers inside cells: of the scores after the mean of each cell is
    subtracted. nan if one side has no spread inside cells."""
    known = np.isfinite(a) & np.isfinite(b)
    names = [name for name, is_known in zip(cells, known) if is_known]
    one, other = a[known].copy(), b[known].copy()
    for places in members_of(names):
        one[places] -= one[places].mean()
        other[places] -= other[places].mean()
    return pearson(one, other) if len(one) else float("nan")


def flat_cells(values: Numbers, cells: Sequence[str], prompts: Sequence[str], noise: float) -> Measure:
    """Return the share of cells in which the scorer does not tell the images apart: the largest score is above the
    smallest one by at most two standard deviations of the noise of a difference, 2 sqrt(2) `noise`. Cells with one
    image do not count."""
    top, names = [], []
    for places in members_of(cells):
        known = values[places][np.isfinite(values[places])]
        if len(known) > 1:
            top.append(float(np.ptp(known) <= 2 * np.sqrt(2) * (noise if np.isfinite(noise) else 0.0)))
            names.append(prompts[places[0]])
    return share(Terms(np.array(top), np.ones(len(top)), names))

"""Confidence intervals. A row is the result for one prompt. Prompts that ask for the same thing in other words have the
same set of constraints. Rows with the same set count as one case, because they are not independent.

Every measure here is a ratio of two sums over rows: accuracy is right / all, repair is (first wrong, then right) /
wrong. Let T_c and B_c be the two sums over only the rows of set c. Let R = sum T / sum B be the measure, and C the
number of sets. Then

    u_c = (T_c - R B_c) / sum B,    V = C / (C - 1) sum_c u_c^2

where u_c is the contribution of set c to the error of R, and V is the linearised variance of R (Cochran 1977, section
6.5; Liang and Zeger 1986). For a difference of two measures, the u_c of the two are subtracted before squaring. So the
difference is *paired*. For a ratio of two measures, the same is done with u_c / R, on the log scale. Intervals use
Student's t with C - 1 degrees of freedom. For a share p, Wilson's interval is used, with p (1 - p) / V as the number of
independent cases. The plain t interval would be too narrow for shares near 0 or 1, and damage is usually such a share.

`python -m benchmarks.coverage` measures how often these intervals contain the true value. It also measures this for the
bootstrap over sets. With 30 sets, bootstrap intervals contain the true value less often than the intervals here.

Letters in shapes: N rows, C sets, S seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import atan, cos, exp, isfinite, log, pi, sin, sqrt

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
NO_INTERVAL = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Measure:
    """A measured value with its confidence interval from `low` to `high` (nan if there is no interval). `n` is the
    number of rows (results, one per prompt) from which the value was computed. `sets` is the number of different sets
    of constraints in these rows; prompts that ask for the same thing in other words have the same set."""

    value: float
    n: int
    low: float = float("nan")
    high: float = float("nan")
    sets: int | None = None

    def to_dict(self) -> dict:
        """Return plain numbers for JSON. nan becomes null."""
        return {key: value if value is not None and isfinite(value) else None for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Terms:
    """A measure as a ratio of two sums, `value = sum(top) / sum(bottom)`. A row is the result for one prompt. `top` and
    `bottom` have one number per row. `sets` has the name of the set of constraints of each row; prompts that ask for
    the same thing in other words have the same set."""

    top: Float[np.ndarray, "N"]
    bottom: Float[np.ndarray, "N"]
    sets: list[str]

    @property
    def value(self) -> float:
        return _divide(float(self.top.sum()), float(self.bottom.sum()))

    @property
    def n(self) -> int:
        """The number of rows (results, one per prompt) with a `bottom` above 0. Only these rows count in the ratio."""
        return int((self.bottom > 0).sum())

    @property
    def counted(self) -> set[str]:
        """The names of the sets of constraints of all rows with a `bottom` above 0. Only these rows count in the
        ratio."""
        return {name for name, weight in zip(self.sets, self.bottom) if weight > 0}

    def parts(self, order: Sequence[str]) -> Float[np.ndarray, "C"]:
        """Return how much each set of constraints contributes to the error of the ratio `value`. (Prompts that ask for
        the same thing have the same set.) `order` has the names of the sets, and the result is in this order. The
        contribution of set c is u_c = (T_c - value * B_c) / sum(bottom). T_c and B_c are the sums of `top` and `bottom`
        over the rows of set c."""
        place = {name: i for i, name in enumerate(order)}
        index = np.array([place.get(name, len(order)) for name in self.sets], dtype=int)
        top, bottom = (np.bincount(index, sums, len(order) + 1)[: len(order)] for sums in (self.top, self.bottom))
        whole = self.bottom.sum()
        return (top - self.value * bottom) / whole if whole else np.full(len(order), np.nan)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) for a share that was observed in `n` independent cases (Wilson 1927,
    eq. 5). `quantile` is a quantile of the normal distribution, for example 1.96 for 95 percent, or of Student's t
    distribution."""
    if n == 0 or not isfinite(share):
        return NO_INTERVAL
    z = quantile
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # a share of exactly 0 or 1 is an end of its interval; rounding would put it slightly outside
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@cache
def t_quantile(level: float, df: int) -> float:
    """Return the t with P(|T| < t) = level, where T has Student's t distribution with `df` >= 1 degrees of freedom. It
    is found by bisection of the closed form for whole numbers of degrees of freedom (Abramowitz and Stegun 26.7.3,
    26.7.4)."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, df) < level else (low, middle)
    return high


def _central(t: float, df: int) -> float:
    """Return P(|T| < t) for Student's T with `df` degrees of freedom."""
    angle = atan(t / sqrt(df))
    odd = df % 2
    term, total = (cos(angle) if odd else 1.0), 0.0
    for k in range(odd, df - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (k + 1) / (k + 2)
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def proportion(terms: Terms, level: float = LEVEL) -> Measure:
    """Return a share of rows with its confidence interval. The share is the ratio of the two sums in `terms`. All
    numbers in `terms` must be 0 or 1. Rows with the same set of constraints (prompts that ask for the same thing) count
    as one case. With fewer than two different sets there is no interval."""
    sets = len(terms.counted)
    ends = wilson(terms.value, independent(terms), t_quantile(level, sets - 1)) if sets > 1 else NO_INTERVAL
    return Measure(terms.value, terms.n, *ends, sets=sets)


def independent(terms: Terms) -> float:
    """Return the effective sample size of a share p, such as the share of right images. It is p (1 - p) / V, where V is
    the variance of p (Kish 1965). Rows with the same set of constraints are not independent. So the effective size can
    be smaller than the number of rows. If p is 0 or 1, or is equal in all sets, V is 0. Then the number of sets is
    returned."""
    order = sorted(terms.counted)
    variance = _variance(terms.parts(order))
    return terms.value * (1 - terms.value) / variance if variance > 0 else float(len(order))


def mean(terms: Terms, level: float = LEVEL) -> Measure:
    """Return a mean over rows (results, one per prompt) with its confidence interval. The mean is the ratio of the two
    sums in `terms`."""
    order = sorted(terms.counted)
    ends = _around(terms.value, terms.parts(order), level)
    return Measure(terms.value, terms.n, *ends, sets=len(order))


def difference(a: Terms | Sequence[Terms], b: Terms | Sequence[Terms], level: float = LEVEL) -> Measure:
    """Return the difference `a - b` of two measures with its interval. Both measures have the same prompts, so their
    errors are compared for each set of constraints. (Prompts that ask for the same thing have the same set.) The field
    `n` of the result is the number of rows (results, one per prompt) that count in `a`.

    If `a` or `b` is a list, it has one entry per seed, and the seeds are pooled. All rows of a set, from all seeds, are
    one case. So more seeds do not count as more independent evidence. The interval holds for these seeds only. For new
    seeds see `across_seeds`. Raises ValueError if `a` and `b` were not measured on the same sets.
    """
    (one, other), order = _paired(a, b)
    value = one.value - other.value
    return Measure(value, one.n, *_around(value, one.parts(order) - other.parts(order), level), sets=len(order))


def ratio(a: Terms | Sequence[Terms], b: Terms | Sequence[Terms], level: float = LEVEL) -> Measure:
    """Return the ratio `a / b` of two measures with its interval. Both measures have the same prompts, so their errors
    are compared for each set of constraints. (Prompts that ask for the same thing have the same set.) The interval is
    symmetric on the log scale. If `a` or `b` is 0, there is no interval.

    If `a` or `b` is a list, it has one entry per seed, and the seeds are pooled.
    """
    (one, other), order = _paired(a, b)
    value = _divide(one.value, other.value)
    if not (isfinite(value) and value > 0):
        return Measure(value, one.n, sets=len(order))
    parts = one.parts(order) / one.value - other.parts(order) / other.value
    low, high = _around(log(value), parts, level)
    return Measure(value, one.n, exp(low), exp(high), sets=len(order))


def across_seeds(a: Sequence[Terms], b: Sequence[Terms], level: float = LEVEL) -> Measure:
    """Return the mean over seeds of the difference `a - b` of two measures, with its confidence interval. `a` and `b`
    have one entry per seed. The interval treats both the seeds and the sets of constraints as random choices. (Prompts
    that ask for the same thing have the same set.)

    Seeds and sets are crossed: every seed is measured on every set. Let S be the number of seeds, C the number of sets,
    d_s the difference of seed s, and u_sc the contribution of set c to the error of d_s. V is the variance of the mean.
    It has a term for the seeds and a term for the sets. Both terms contain the residual V_0. It must count only once,
    so it is subtracted (Cameron, Gelbach and Miller 2011, eq. 2.12):

        V = V_seeds + V_sets - V_0, but at least V_seeds and at least V_sets
        V_seeds = sum_s (d_s - mean d)^2 / (S (S - 1))
        V_sets = C / (C - 1) sum_c (mean_s u_sc)^2
        V_0 = C / (C - 1) sum_sc (u_sc - mean_s u_sc)^2 / (S (S - 1))

    Student's t is used with Satterthwaite's degrees of freedom V^2 / (V_seeds^2 / (S - 1) + V_sets^2 / (C - 1)). The
    interval is never narrower than the t interval of the d_s alone, which uses V_seeds and S - 1 degrees of freedom.
    With one seed there is no interval.
    """
    pairs = [_paired(one, other)[0] for one, other in zip(a, b, strict=True)]
    order = sorted(set().union(*(terms.counted for pair in pairs for terms in pair)))
    found = np.array([one.value - other.value for one, other in pairs])
    value, rows, seeds, sets = float(found.mean()), sum(one.n for one, _ in pairs), len(pairs), len(order)
    if seeds < 2 or sets < 2 or not isfinite(value):
        return Measure(value, rows, sets=sets)
    parts = np.array([one.parts(order) - other.parts(order) for one, other in pairs])
    of_seeds = float(np.square(found - value).sum()) / (seeds * (seeds - 1))
    of_sets = _variance(parts.mean(0))
    residual = sum(_variance(part) for part in parts - parts.mean(0)) / (seeds * (seeds - 1))
    variance = max(of_seeds + of_sets - residual, of_seeds, of_sets)
    half = t_quantile(level, seeds - 1) * sqrt(of_seeds)
    if variance > 0:
        freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_sets**2 / (sets - 1))
        half = max(half, t_quantile(level, min(max(int(freedom), 1), sets - 1)) * sqrt(variance))
    return Measure(value, rows, value - half, value + half, sets)


def pooled(terms: Sequence[Terms]) -> Terms:
    """Join several Terms objects, usually one per seed, into one Terms object that has all their rows."""
    return Terms(
        np.concatenate([t.top for t in terms]),
        np.concatenate([t.bottom for t in terms]),
        [name for t in terms for name in t.sets],
    )


def _paired(a: Terms | Sequence[Terms], b: Terms | Sequence[Terms]) -> tuple[tuple[Terms, Terms], list[str]]:
    """Return ((a, b), sets) for a paired comparison. `a` and `b` are pooled over their seeds. `sets` has the names of
    the sets of constraints for which `a` or `b` has a row with `bottom` above 0. Raises ValueError if `a` and `b` were
    not measured on the same sets."""
    one, other = (side if isinstance(side, Terms) else pooled(side) for side in (a, b))
    if odd := sorted(set(one.sets) ^ set(other.sets)):
        raise ValueError(
            f"a paired comparison needs the same sets on both sides; {len(odd)} are on one side only, the first is "
            f"{odd[0]!r}: evaluate both on the same prompts"
        )
    return (one, other), sorted(one.counted | other.counted)


def _variance(parts: Float[np.ndarray, "C"]) -> float:
    """Return the variance of a value: C / (C - 1) sum_c u_c^2. `parts` has u_c for each of the C sets of constraints:
    how much set c contributes to the error of the value. With fewer than two sets, return nan."""
    sets = len(parts)
    return float(sets / (sets - 1) * np.square(parts).sum()) if sets > 1 else float("nan")


def _around(value: float, parts: Float[np.ndarray, "C"], level: float) -> tuple[float, float]:
    if len(parts) < 2 or not isfinite(value):
        return NO_INTERVAL
    half = t_quantile(level, len(parts) - 1) * sqrt(_variance(parts))
    return value - half, value + half


def _divide(top: float, bottom: float) -> float:
    """Return top / bottom, or nan if `bottom` is 0."""
    return float(top / bottom) if bottom else float("nan")

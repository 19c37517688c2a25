"""Outcomes of sets whose truth is known, to see how often an interval holds it.

Row i of set c is right iff sqrt(rho) z_c + sqrt(1 - rho) e_ci < quantile(p) with standard normal z_c and e_ci. Rows of
a set are alike (`rho`: correlation of what lies behind them). The share of right rows over all sets is p. The number of
rows of a set is geometric, 2.5 on average.

Shape letters: C sets, N rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from irg_rl.evaluate.intervals import Measure, Terms

SHARES = (0.05, 0.5, 0.9)
SETS = (30, 100, 300)
RHO = 0.3


@dataclass(frozen=True)
class Sets:
    """Rows of `count` sets of uneven size, and the set of each row."""

    count: int
    of_row: np.ndarray
    names: list[str]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> "Sets":
        of_row = np.repeat(np.arange(count), rng.geometric(0.4, count))
        return cls(count, of_row, [str(number) for number in of_row])

    def rows(self, share: float, common: np.ndarray, rng: np.random.Generator, rho: float = RHO) -> Terms:
        """Right and wrong rows whose truth is `share`; `common` is the z of each set."""
        own = rng.standard_normal(len(self.of_row))
        behind = np.sqrt(rho) * common[self.of_row] + np.sqrt(1 - rho) * own
        right = behind < NormalDist().inv_cdf(share)
        return Terms(right.astype(float), np.ones(len(right)), self.names)


def coverage(trial: Callable[[np.random.Generator], tuple[Measure, float]], trials: int, seed: int = 0) -> float:
    """Share of trials, each a measure and its truth, whose interval holds the truth."""
    rng, held = np.random.default_rng(seed), 0
    for _ in range(trials):
        measure, truth = trial(rng)
        held += measure.low <= truth <= measure.high
    return held / trials


def one_share(measure: Callable[[Terms], Measure], share: float, count: int, rho: float = RHO):
    """A trial: the share of right rows."""

    def trial(rng: np.random.Generator) -> tuple[Measure, float]:
        sets = Sets.draw(count, rng)
        return measure(sets.rows(share, rng.standard_normal(count), rng, rho)), share

    return trial


def two_arms(measure: Callable[[Terms, Terms], Measure], shares: tuple[float, float], truth: float, count: int):
    """A trial: two arms on the same sets, which are hard or easy for both (correlation .8 of the z)."""

    def trial(rng: np.random.Generator) -> tuple[Measure, float]:
        sets = Sets.draw(count, rng)
        one = rng.standard_normal(count)
        other = 0.8 * one + 0.6 * rng.standard_normal(count)
        return measure(sets.rows(shares[0], one, rng), sets.rows(shares[1], other, rng)), truth

    return trial


def several_seeds(measure: Callable[[list[Terms], list[Terms]], Measure], seeds: int, between: float, count: int):
    """A trial: RL under several seeds beside one SFT, right .5 of the time. Seeds move the quantile of RL's truth by a
    normal number of spread `between`; the mean gain over all seeds is 0."""

    def trial(rng: np.random.Generator) -> tuple[Measure, float]:
        sets = Sets.draw(count, rng)
        common = rng.standard_normal(count)
        sft = sets.rows(0.5, common, rng)
        shares = [NormalDist().cdf(between * rng.standard_normal()) for _ in range(seeds)]
        mixed = [0.8 * common + 0.6 * rng.standard_normal(count) for _ in range(seeds)]
        return measure([sets.rows(share, own, rng) for share, own in zip(shares, mixed)], [sft] * seeds), 0.0

    return trial

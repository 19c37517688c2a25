"""Intervals hold the truth as often as they say: 93 to 97 % of the time, by simulation. A thousand trials are uncertain
by .014 (two standard errors); `python -m benchmarks.coverage` takes ten thousand."""

import numpy as np
import pytest

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Measure, Terms
from tests.evaluate.simulated import SETS, SHARES, coverage, one_share, several_seeds, two_arms

TRIALS = 1000
LOW, HIGH = 0.93 - 0.014, 0.97 + 0.014


@pytest.mark.parametrize("count", SETS)
@pytest.mark.parametrize("share", SHARES)
def test_a_share_is_covered(share, count):
    assert LOW <= coverage(one_share(intervals.proportion, share, count), TRIALS) <= HIGH


@pytest.mark.parametrize("count", SETS)
@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.65, 0.5), (0.95, 0.85)])
def test_a_paired_difference_is_covered(shares, count):
    trial = two_arms(intervals.difference, shares, shares[0] - shares[1], count)
    assert LOW <= coverage(trial, TRIALS) <= HIGH


@pytest.mark.parametrize("count", SETS)
@pytest.mark.parametrize("shares", [(0.5, 0.3), (0.9, 0.5)])
def test_a_ratio_is_covered(shares, count):
    trial = two_arms(intervals.ratio, shares, shares[0] / shares[1], count)
    assert LOW <= coverage(trial, TRIALS) <= HIGH


@pytest.mark.parametrize("between", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_what_another_seed_would_bring_is_covered(seeds, between):
    assert LOW <= coverage(several_seeds(intervals.across_seeds, seeds, between, 100), TRIALS) <= HIGH


def test_rows_taken_as_independent_are_covered_too_seldom():
    """What the simulation is there to catch: every row its own set."""

    def by_row(terms: Terms) -> Measure:
        return intervals.proportion(Terms(terms.top, terms.bottom, [str(row) for row in range(len(terms.top))]))

    assert coverage(one_share(by_row, 0.5, 100), TRIALS) < 0.90


def test_seeds_taken_as_they_are_say_too_little_about_others():
    assert coverage(several_seeds(intervals.difference, 3, 0.2, 100), TRIALS) < 0.90


def test_the_t_interval_of_the_seeds_alone_forgets_that_sets_vary():
    def plain(a: list[Terms], b: list[Terms]) -> Measure:
        found = np.array([one.value - other.value for one, other in zip(a, b)])
        half = intervals.t_quantile(0.95, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
        return Measure(found.mean(), 0, found.mean() - half, found.mean() + half)

    assert coverage(several_seeds(plain, 5, 0.0, 100), TRIALS) < 0.90

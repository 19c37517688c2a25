"""How often the intervals of irg_rl/evaluate/intervals.py hold the truth, beside the bootstrap over sets.

    python -m benchmarks.coverage [--trials 10000]

From the root of the repository. Sets of uneven size, whose rows are alike (tests/evaluate/simulated.py); 95 % are
promised.
One core; about ten minutes with 10,000 trials, the bootstrap with a tenth of them.
"""

import argparse

import numpy as np

from irg_rl.driver.progress import console
from irg_rl.evaluate import intervals
from irg_rl.evaluate.comparison_text import table
from irg_rl.evaluate.intervals import Measure, Terms
from tests.evaluate.simulated import SETS, SHARES, coverage, one_share, several_seeds, two_arms

PAIRS = ((0.05, 0.05), (0.65, 0.5), (0.95, 0.85))
RATIOS = ((0.5, 0.3), (0.9, 0.5))
RESAMPLES = 1000


def bootstrap(*arms: Terms) -> Measure:
    """Percentiles over resampled sets of a share, or of the difference of two."""
    order = sorted(set(arms[0].sets))
    place = {name: number for number, name in enumerate(order)}
    index = np.array([place[name] for name in arms[0].sets])
    weights = np.random.default_rng(0).multinomial(len(order), np.full(len(order), 1 / len(order)), RESAMPLES)
    drawn = [weights @ np.bincount(index, arm.top) / (weights @ np.bincount(index, arm.bottom)) for arm in arms]
    values = drawn[0] if len(drawn) == 1 else drawn[0] - drawn[1]
    low, high = (float(end) for end in np.quantile(values, [0.025, 0.975]))
    return Measure(float(values.mean()), len(index), low, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10000)
    trials = parser.parse_args().trials
    few = max(trials // 10, 1)
    rows = []
    for count in SETS:
        for share in SHARES:
            ours = coverage(one_share(intervals.proportion, share, count), trials)
            theirs = coverage(one_share(bootstrap, share, count), few)
            rows.append([f"share {share}", str(count), f"{ours:.3f}", f"{theirs:.3f}"])
        for a, b in PAIRS:
            ours = coverage(two_arms(intervals.difference, (a, b), a - b, count), trials)
            theirs = coverage(two_arms(bootstrap, (a, b), a - b, count), few)
            rows.append([f"difference {a} - {b}", str(count), f"{ours:.3f}", f"{theirs:.3f}"])
        for a, b in RATIOS:
            ours = coverage(two_arms(intervals.ratio, (a, b), a / b, count), trials)
            rows.append([f"ratio {a} / {b}", str(count), f"{ours:.3f}", ""])
    for seeds in (2, 3, 5):
        for between in (0.0, 0.05, 0.2):
            ours = coverage(several_seeds(intervals.across_seeds, seeds, between, 100), few)
            rows.append([f"{seeds} seeds, spread {between}", "100", f"{ours:.3f}", ""])
    console.print(table(["figure", "sets", "covered", "bootstrap over sets"], rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()

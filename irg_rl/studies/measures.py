"""Statistics of studies, as ratios of sums over trajectories. So the intervals can resample prompts.

Shape letters: N and M trajectories, T turns.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Measure, Terms


def terms(
    top: Float[np.ndarray, "N"], prompt_ids: Sequence[str], bottom: Bool[np.ndarray, "N"] | None = None
) -> Terms:
    """Mean of `top` over the rows selected by `bottom` (None: all rows). Rows with nan are left out."""
    counted = np.isfinite(top.astype(float)) & (np.ones(len(top), bool) if bottom is None else bottom)
    return Terms(np.where(counted, np.nan_to_num(top.astype(float)), 0.0), counted.astype(float), list(prompt_ids))


def share(cases: Bool[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """A proportion with Wilson's interval, computed for the effective number of independent cases."""
    return intervals.proportion(terms(cases, prompt_ids, of))


def mean(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """A mean with its bootstrap interval over prompts."""
    return intervals.mean(terms(values, prompt_ids, of))


def gain(a: Float[np.ndarray, "N"], b: Float[np.ndarray, "N"], prompt_ids: Sequence[str]) -> Measure:
    """mean(a) - mean(b), paired: both are measured on the same prompts, and the prompts are resampled together."""
    return intervals.difference(terms(a, prompt_ids), terms(b, prompt_ids))


def between(
    one: Float[np.ndarray, "N"], whose: Sequence[str], other: Float[np.ndarray, "M"], theirs: Sequence[str]
) -> Measure:
    """mean(one) - mean(other), paired over the prompts that both have; nan if they share no prompt."""
    both = set(whose) & set(theirs)
    return intervals.difference(_of(one, whose, both), _of(other, theirs, both))


def _of(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], chosen: set[str]) -> Terms:
    kept = [row for row, prompt in enumerate(prompt_ids) if prompt in chosen]
    return terms(values[kept], [prompt_ids[row] for row in kept])


def words(measure: Measure, form: str = ".3f") -> str:
    """`0.412 [0.36, 0.47] (n=300)`"""
    if not np.isfinite(measure.value):
        return "–"
    ends = "" if not np.isfinite(measure.low) else f" [{measure.low:{form}}, {measure.high:{form}}]"
    return f"{measure.value:{form}}{ends} (n={measure.n})"

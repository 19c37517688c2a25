"""Statistics for studies. Each one is a ratio of two sums over trajectories, so that its interval can be computed by
resampling prompts.

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
    """Return the terms of the mean of `top` over the rows that `bottom` selects (None: all rows). Rows in which `top`
    is nan are left out."""
    counted = np.isfinite(top.astype(float)) & (np.ones(len(top), bool) if bottom is None else bottom)
    return Terms(np.where(counted, np.nan_to_num(top.astype(float)), 0.0), counted.astype(float), list(prompt_ids))


def share(cases: Bool[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """Return the share of True in `cases`, counted over the rows that `of` selects (None: all rows). The interval is
    Wilson's, computed for the effective number of independent cases."""
    return intervals.proportion(terms(cases, prompt_ids, of))


def mean(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """Return the mean of `values` over the rows that `of` selects (None: all rows), with a bootstrap interval over
    prompts."""
    return intervals.mean(terms(values, prompt_ids, of))


def gain(a: Float[np.ndarray, "N"], b: Float[np.ndarray, "N"], prompt_ids: Sequence[str]) -> Measure:
    """Return mean(a) - mean(b), with a paired interval: both are measured on the same prompts, and the prompts are
    resampled together."""
    return intervals.difference(terms(a, prompt_ids), terms(b, prompt_ids))


def between(
    one: Float[np.ndarray, "N"], whose: Sequence[str], other: Float[np.ndarray, "M"], theirs: Sequence[str]
) -> Measure:
    """Return mean(one) - mean(other) over the prompts that occur on both sides, with a paired interval. `whose` and
    `theirs` are the prompt ids of the values. The result is nan if the sides have no prompt in common."""
    both = set(whose) & set(theirs)
    return intervals.difference(_of(one, whose, both), _of(other, theirs, both))


def _of(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], chosen: set[str]) -> Terms:
    kept = [row for row, prompt in enumerate(prompt_ids) if prompt in chosen]
    return terms(values[kept], [prompt_ids[row] for row in kept])


def words(measure: Measure, form: str = ".3f") -> str:
    """Format a measure as text, for example `0.412 [0.36, 0.47] (n=300)`."""
    if not np.isfinite(measure.value):
        return "–"
    ends = "" if not np.isfinite(measure.low) else f" [{measure.low:{form}}, {measure.high:{form}}]"
    return f"{measure.value:{form}}{ends} (n={measure.n})"

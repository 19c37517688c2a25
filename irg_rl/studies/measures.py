"""Statistics for studies, such as shares and means with intervals. Each statistic is a ratio of two sums over
trajectories, so its interval can be computed by resampling prompts.

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
    """Return the data from which the mean of the values `top` is computed: a numerator and a denominator for each
    value. A value is used if it is finite and `bottom` is True for it. If `bottom` is None, all finite values are used.
    For a value that is used, the numerator is the value and the denominator is 1. For any other value, numerator and
    denominator are 0."""
    counted = np.isfinite(top.astype(float)) & (np.ones(len(top), bool) if bottom is None else bottom)
    return Terms(np.where(counted, np.nan_to_num(top.astype(float)), 0.0), counted.astype(float), list(prompt_ids))


def share(cases: Bool[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """Return the share of True values in `cases`. If `of` is given, only the elements where `of` is True are counted.
    The interval is Wilson's. It uses the effective number of independent values, because several trajectories of one
    prompt are not independent."""
    return intervals.proportion(terms(cases, prompt_ids, of))


def mean(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    """Return the mean of `values`, with a bootstrap interval over prompts. If `of` is given, only the values where `of`
    is True are used."""
    return intervals.mean(terms(values, prompt_ids, of))


def gain(a: Float[np.ndarray, "N"], b: Float[np.ndarray, "N"], prompt_ids: Sequence[str]) -> Measure:
    """Return mean(a) - mean(b), with a paired interval. `a` and `b` are measured on the same prompts: `prompt_ids` has
    the prompt of each value. The interval is computed by resampling prompts, and the same resampled prompts are used
    for both means."""
    return intervals.difference(terms(a, prompt_ids), terms(b, prompt_ids))


def between(
    one: Float[np.ndarray, "N"], whose: Sequence[str], other: Float[np.ndarray, "M"], theirs: Sequence[str]
) -> Measure:
    """Return mean(one) - mean(other), with a paired interval. `whose` has the prompt ids of the values `one`, and
    `theirs` has the prompt ids of the values `other`. Only prompts that occur on both sides are used. The result is nan
    if the two sides have no prompt in common."""
    both = set(whose) & set(theirs)
    return intervals.difference(_of(one, whose, both), _of(other, theirs, both))


def _of(values: Float[np.ndarray, "N"], prompt_ids: Sequence[str], chosen: set[str]) -> Terms:
    kept = [row for row, prompt in enumerate(prompt_ids) if prompt in chosen]
    return terms(values[kept], [prompt_ids[row] for row in kept])


def words(measure: Measure, form: str = ".3f") -> str:
    """Format a measured value as text with its interval and its number of cases n, for example `0.412 [0.36, 0.47]
    (n=300)`."""
    if not np.isfinite(measure.value):
        return "–"
    ends = "" if not np.isfinite(measure.low) else f" [{measure.low:{form}}, {measure.high:{form}}]"
    return f"{measure.value:{form}}{ends} (n={measure.n})"

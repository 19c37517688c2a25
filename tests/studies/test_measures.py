"""Measures over trajectories, paired where two tables are compared."""

import numpy as np
import pytest

from irg_rl.studies.measures import between


def test_tables_are_compared_on_the_prompts_that_both_have():
    """By hand: a and b are in both, 1 - 1 and 1 - 0. The variance of the mean is .25, and Student's t with 1 degree of
    freedom is 12.706: an interval of .5 -+ 6.353."""
    one, other = np.array([1, 1, 0, 0]), np.array([0, 1, 1])
    found = between(one, list("abcd"), other, list("bax"))
    assert (found.value, found.n) == (0.5, 2)
    assert (found.low, found.high) == pytest.approx((0.5 - 6.353, 0.5 + 6.353), abs=1e-3)


def test_tables_without_a_prompt_in_common_have_no_difference():
    assert np.isnan(between(np.ones(2), list("ab"), np.ones(1), ["c"]).value)

"""Measures over trajectories, paired where two tables are compared."""

import numpy as np

from irg_rl.studies.measures import between


def test_tables_are_compared_on_the_prompts_that_both_have():
    """By hand: a and b are in both, 1 − 1 and 1 − 0."""
    one, other = np.array([1, 1, 0, 0]), np.array([0, 1, 1])
    found = between(one, list("abcd"), other, list("bax"))
    assert found.value == 0.5 and found.n == 2 and found.low == 0 and found.high == 1


def test_tables_without_a_prompt_in_common_have_no_difference():
    assert np.isnan(between(np.ones(2), list("ab"), np.ones(1), ["c"]).value)

"""Numbers worked out by hand."""

import math

import numpy as np
import pytest

from irg_rl.reward_bench.statistics import (
    correlation_within,
    flat_cells,
    noise_of,
    order_terms,
    pairs_within,
    ranks,
    share,
    spearman,
    spearman_over_all,
    spearman_within,
    spread_within,
)

NAN = math.nan


def numbers(*values):
    return np.array(values, dtype=float)


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks(numbers(3, 1, 3, 2)).tolist() == [3.5, 1, 3.5, 2]


def test_spearman_is_pearson_of_ranks():
    assert spearman(numbers(1, 2, 3, 4), numbers(1, 3, 2, 40)) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert spearman(numbers(1, 2, 3), numbers(9, 5, 1)) == -1
    assert math.isnan(spearman(numbers(1, 2, 3), numbers(5, 5, 5)))
    assert math.isnan(spearman(numbers(1, 2), numbers(1, 2))), "two images always agree or disagree wholly"


def test_over_all_images_agreement_can_be_high_where_siblings_are_ranked_wrongly():
    """Two prompts, one easy and one hard. Inside each, the scorers disagree wholly."""
    a, b = numbers(1, 2, 3, 11, 12, 13), numbers(3, 2, 1, 13, 12, 11)
    cells = ["x"] * 3 + ["y"] * 3
    assert spearman_over_all(a, b, cells).value > 0.5
    within = spearman_within(a, b, cells, cells)
    assert (within.value, within.n) == (-1, 2)


def test_failed_scores_are_left_out_and_not_ranked():
    found = spearman_over_all(numbers(1, 2, NAN, 3), numbers(1, 2, 9, 3), ["p", "q", "r", "s"])
    assert (found.value, found.n, found.sets) == (1, 3, 3)
    assert found.low <= found.value <= found.high
    assert spearman_within(numbers(1, NAN, 3), numbers(1, 2, 3), ["c"] * 3, ["p"] * 3).n == 0


def test_the_share_of_pairs_in_the_right_order_counts_ties_half():
    gaps, truth = numbers(1, -1, 0, 2, NAN, 3), numbers(5, 1, -1, 0, 1, 1)
    found = share(order_terms(gaps, truth, ["p", "q", "r", "s", "t", "u"]))
    # right, wrong, tie, equal in truth (left out), failed (left out), right
    assert (found.value, found.n) == (pytest.approx(2.5 / 4), 4)
    assert 0 <= found.low < found.value < found.high <= 1


def test_pairs_of_one_prompt_are_not_independent():
    gaps = np.tile(numbers(1, 1, 1, -1), 6)
    apart = share(order_terms(gaps, np.ones(24), [str(i) for i in range(24)]))
    together = share(order_terms(gaps, np.ones(24), [str(i % 4) for i in range(24)]))
    assert apart.value == together.value and together.high - together.low > 1.5 * (apart.high - apart.low)


def test_pairs_are_siblings_only():
    assert pairs_within(["a", "b", "a", "a"]).tolist() == [[0, 2], [0, 3], [2, 3]]
    assert pairs_within(["a", "b"]).shape == (0, 2)


def test_noise_is_the_spread_between_equal_calls():
    assert noise_of(np.array([[1.0, 5.0], [3.0, 5.0]])) == pytest.approx(1.0)  # variances 2 and 0
    assert noise_of(np.array([[1.0, NAN], [3.0, 5.0]])) == pytest.approx(math.sqrt(2))
    assert math.isnan(noise_of(np.array([[1.0, 2.0]])))


def test_spread_and_correlation_leave_out_what_differs_between_groups():
    cells = ["x", "x", "y", "y"]
    assert spread_within(numbers(0, 2, 100, 102), cells) == pytest.approx(math.sqrt(2))
    assert correlation_within(numbers(0, 2, 100, 102), numbers(2, 0, 202, 200), cells) == pytest.approx(-1)
    assert math.isnan(correlation_within(numbers(0, 2), numbers(1, 1), ["x", "x"]))


def test_a_group_whose_differences_are_noise_is_flat():
    scores, cells = numbers(0, 0.1, 5, 9, 3), ["x", "x", "y", "y", "alone"]
    assert flat_cells(scores, cells, cells, noise=0.1).value == 0.5
    assert flat_cells(scores, cells, cells, noise=NAN).value == 0
    assert flat_cells(scores, cells, cells, noise=0.1).n == 2

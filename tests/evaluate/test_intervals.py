import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Terms

NORMAL = 1.959964


def terms(values, prompts=None, weight=None):
    values = np.asarray(values, dtype=float)
    return Terms(
        values, np.ones(len(values)) if weight is None else weight, prompts or [f"p{i}" for i in range(len(values))]
    )


def test_wilson_gives_the_published_numbers():
    """81 of 263: (0.2553, 0.3662) in Newcombe 1998, table I; 0 of 20: (0, 0.1611)."""
    assert intervals.wilson(81 / 263, 263, NORMAL) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(0, 20, NORMAL) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (29, 2.0452), (299, 1.9679)]
)
def test_student_s_quantiles_are_those_of_the_tables(df, quantile):
    assert intervals.t_quantile(0.95, df) == pytest.approx(quantile, abs=5e-5)


@given(st.integers(1, 400), st.data())
def test_wilson_holds_the_share_and_stays_in_the_unit_interval(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = intervals.wilson(successes / n, n, NORMAL)
    assert 0.0 <= low <= successes / n <= high <= 1.0


def test_the_mean_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    measured = intervals.mean(terms(values))
    half = 1.96 * values.std() / 20
    assert measured.low == pytest.approx(values.mean() - half, abs=0.015)
    assert measured.high == pytest.approx(values.mean() + half, abs=0.015)


def test_pairing_removes_what_both_arms_share():
    """Prompts differ a lot, the arms by a constant: the paired interval is a point, the unpaired one is wide."""
    base = np.random.default_rng(0).normal(0, 5, 100)
    gained = intervals.difference(terms(base + 0.1), terms(base))
    assert (gained.low, gained.high) == pytest.approx((0.1, 0.1))
    assert intervals.mean(terms(base)).high - intervals.mean(terms(base)).low > 1.0


def test_pairing_goes_by_prompt_and_not_by_row_order():
    forward = intervals.difference(terms([1, 0, 1], ["a", "b", "c"]), terms([1, 0, 1], ["a", "b", "c"]))
    turned = intervals.difference(terms([1, 0, 1], ["a", "b", "c"]), terms([1, 1, 0], ["c", "a", "b"]))
    assert (forward.low, forward.high) == (turned.low, turned.high) == (0.0, 0.0)


def test_samples_of_one_prompt_are_not_independent_evidence():
    values = np.random.default_rng(2).integers(0, 2, 50)
    single = intervals.mean(terms(values))
    copies = intervals.mean(terms(np.repeat(values, 8), [f"p{i}" for i in range(50) for _ in range(8)]))
    assert (copies.low, copies.high) == (single.low, single.high)


def test_seeds_pooled_bring_their_set_along():
    rng = np.random.default_rng(3)
    seeds = [terms(rng.integers(0, 2, 80)) for _ in range(3)]
    zero = [terms(np.zeros(80)) for _ in range(3)]
    together = intervals.difference(seeds, zero)
    assert together.value == pytest.approx(np.mean([s.value for s in seeds]))
    assert (together.n, together.sets) == (240, 80)
    identical = intervals.difference([seeds[0]] * 3, zero)
    alone = intervals.difference(seeds[0], zero[0])
    assert (identical.low, identical.high) == pytest.approx((alone.low, alone.high))


def test_different_sets_on_both_sides_are_refused():
    with pytest.raises(ValueError, match="2 are on one side only, the first is 'b'"):
        intervals.difference(terms([1, 0], ["a", "b"]), terms([1, 0], ["a", "c"]))


def test_a_ratio_of_shares_is_as_far_from_its_ends_on_the_log_scale():
    doubled = intervals.ratio(terms([1, 1, 0, 0] * 40), terms([1, 0, 0, 0] * 40))
    assert doubled.value == 2.0
    assert 1.5 < doubled.low < 2.0 < doubled.high < 2.9
    assert doubled.low * doubled.high == pytest.approx(4.0)


def test_a_ratio_to_nothing_and_a_ratio_of_nothing_have_no_interval():
    some, none = terms([1, 1, 0, 0]), terms([0, 0, 0, 0])
    assert np.isnan(intervals.ratio(some, none).value)
    assert intervals.ratio(none, some).value == 0.0 and np.isnan(intervals.ratio(none, some).low)


def test_nothing_measured_gives_no_interval():
    empty = intervals.mean(terms([0.0, 0.0], weight=np.zeros(2)))
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    assert empty.to_dict() == {"value": None, "n": 0, "low": None, "high": None, "sets": 0}
    assert intervals.proportion(terms([0.0, 0.0], weight=np.zeros(2))).to_dict() == empty.to_dict()


def test_one_set_shows_no_variance_and_gets_no_interval_however_many_rows_it_has():
    for measure in (intervals.mean, intervals.proportion):
        found = measure(terms([1, 1, 0, 1], ["a"] * 4))
        assert (found.value, found.n, found.sets) == (0.75, 4, 1) and np.isnan([found.low, found.high]).all()


def test_rows_of_one_set_that_always_agree_count_as_one_case():
    values = np.repeat([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 8)
    copies = terms(values, [f"p{i // 8}" for i in range(80)])
    assert intervals.independent(copies) == pytest.approx(9)
    assert (intervals.proportion(copies).value, intervals.proportion(copies).n) == (0.2, 80)
    assert intervals.proportion(copies).high > intervals.proportion(terms(values)).high + 0.1


def test_rows_that_differ_as_much_within_a_set_as_between_count_each():
    rng = np.random.default_rng(0)
    mixed = terms((rng.random(4000) < 0.3).astype(float), [f"p{i % 500}" for i in range(4000)])
    assert intervals.independent(mixed) == pytest.approx(4000, rel=0.15)


def test_a_share_of_nothing_counts_one_case_a_set():
    none = terms(np.zeros(40), [f"p{i % 10}" for i in range(40)])
    assert intervals.proportion(none).high == pytest.approx(intervals.wilson(0, 10, intervals.t_quantile(0.95, 9))[1])


def test_a_set_with_many_rows_weighs_as_much_in_the_variance_as_in_the_value():
    """By hand: T = (3, 0, 1), B = (4, 1, 1), R = 2/3, u = (3 - 8/3, -2/3, 1/3) / 6, V = 3/2 sum u^2 = 1/36."""
    found = intervals.mean(terms([1, 1, 1, 0, 0, 1], ["a", "a", "a", "a", "b", "c"]))
    assert found.value == pytest.approx(2 / 3)
    assert found.high - found.value == pytest.approx(4.30265 / 6, abs=1e-4)


def test_seeds_as_the_unit_give_the_t_interval_of_their_differences_when_sets_say_nothing():
    """Three seeds gain .1, .2 and .3 on every set alike: mean .2, t interval with two degrees of freedom."""
    base = [terms(np.zeros(50)) for _ in range(3)]
    found = intervals.across_seeds([terms(np.full(50, gain)) for gain in (0.1, 0.2, 0.3)], base)
    assert (found.value, found.n, found.sets) == (pytest.approx(0.2), 150, 50)
    assert found.high - 0.2 == pytest.approx(4.30265 * 0.1 / np.sqrt(3), abs=1e-4)


def test_seeds_that_all_do_the_same_leave_the_interval_over_sets():
    rng = np.random.default_rng(5)
    one, base = terms(rng.integers(0, 2, 60)), terms(np.zeros(60))
    across, these = intervals.across_seeds([one] * 3, [base] * 3), intervals.difference(one, base)
    assert (across.low, across.high) == pytest.approx((these.low, these.high))


def test_what_seeds_and_sets_have_in_common_does_not_widen_the_interval():
    """By hand: both seeds gain 1/3, so V_seeds = 0. u = (2, -1, -1) / 9 and (-1, 2, -1) / 9, V_sets = 1/36, V_0 = 1/12:
    V is V_sets, with two degrees of freedom. Fails where V_0 is added in place of being taken off."""
    seeds = [terms([1, 0, 0], ["a", "b", "c"]), terms([0, 1, 0], ["a", "b", "c"])]
    found = intervals.across_seeds(seeds, [terms([0, 0, 0], ["a", "b", "c"])] * 2)
    assert found.value == pytest.approx(1 / 3)
    assert found.high - found.value == pytest.approx(4.30265 / 6, abs=1e-4)


def test_one_seed_says_nothing_about_others():
    assert np.isnan(intervals.across_seeds([terms([1, 0, 1])], [terms([0, 0, 1])]).low)

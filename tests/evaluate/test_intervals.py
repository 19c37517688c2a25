import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Terms


def terms(values, prompts=None, weight=None):
    values = np.asarray(values, dtype=float)
    return Terms(
        values, np.ones(len(values)) if weight is None else weight, prompts or [f"p{i}" for i in range(len(values))]
    )


def test_wilson_gives_the_published_numbers():
    """81 of 263: (0.2553, 0.3662) in Newcombe 1998, table I; 0 of 20: (0, 0.1611)."""
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 400), st.data())
def test_wilson_holds_the_share_and_stays_in_the_unit_interval(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = intervals.wilson(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0


def test_the_mean_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    measured = intervals.mean(terms(values), seed=5)
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


def test_seeds_pooled_bring_their_prompt_along():
    rng = np.random.default_rng(3)
    seeds = [terms(rng.integers(0, 2, 80)) for _ in range(3)]
    zero = [terms(np.zeros(80)) for _ in range(3)]
    together = intervals.difference(seeds, zero)
    assert together.value == pytest.approx(np.mean([s.value for s in seeds]))
    assert together.n == 80
    identical = intervals.difference([seeds[0]] * 3, zero)
    alone = intervals.difference(seeds[0], zero[0])
    assert (identical.low, identical.high) == pytest.approx((alone.low, alone.high))


def test_different_prompts_on_both_sides_are_refused():
    with pytest.raises(ValueError, match="2 are on one side only, the first is 'b'"):
        intervals.difference(terms([1, 0], ["a", "b"]), terms([1, 0], ["a", "c"]))


def test_a_ratio_of_shares_is_resampled_as_a_ratio():
    doubled = intervals.ratio(terms([1, 1, 0, 0] * 40), terms([1, 0, 0, 0] * 40))
    assert doubled.value == 2.0
    assert 1.5 < doubled.low < 2.0 < doubled.high < 2.9


def test_the_same_seed_gives_the_same_interval_and_nothing_measured_gives_none():
    values = terms([1, 0, 0, 1, 1, 0])
    assert intervals.mean(values, seed=1) == intervals.mean(values, seed=1)
    empty = intervals.mean(terms([0.0, 0.0], weight=np.zeros(2)))
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    assert empty.to_dict() == {"value": None, "n": 0, "low": None, "high": None}


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(9)
    covered = 0
    for trial in range(200):
        a, b = (rng.random(120) < 0.6).astype(float), (rng.random(120) < 0.5).astype(float)
        gained = intervals.difference(terms(a), terms(b), resamples=400, seed=trial)
        covered += gained.low <= 0.1 <= gained.high
    assert 0.90 <= covered / 200 <= 0.99


def test_samples_of_one_prompt_that_always_agree_count_as_one_case():
    values = np.repeat([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 8)
    copies = terms(values, prompts=[f"p{i // 8}" for i in range(80)])
    assert intervals.independent(copies) == pytest.approx(10, rel=0.15)
    assert intervals.proportion(copies).value == 0.2 and intervals.proportion(copies).n == 80
    assert intervals.proportion(copies).high > intervals.proportion(terms(values)).high + 0.1


def test_samples_that_differ_as_much_within_a_prompt_as_between_count_each():
    rng = np.random.default_rng(0)
    mixed = terms((rng.random(4000) < 0.3).astype(float), prompts=[f"p{i % 500}" for i in range(4000)])
    assert intervals.independent(mixed) == pytest.approx(4000, rel=0.15)


def test_a_share_of_nothing_counts_one_case_a_prompt():
    none = terms(np.zeros(40), prompts=[f"p{i % 10}" for i in range(40)])
    assert intervals.proportion(none).high == pytest.approx(intervals.wilson(0, 10)[1])

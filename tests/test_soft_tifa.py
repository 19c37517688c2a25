"""Soft-TIFA: which spellings are right, how probable they are, and how the atoms of a prompt become one score."""

import math

import pytest

from irg_rl.soft_tifa import NoProbabilities, accepted, aggregate, asked, first_token_probability
from tests.rewards.servers import completion


def test_the_right_answer_may_be_capital_spaced_or_a_digit():
    assert accepted("Red") == ("red", " red", "Red", " Red")
    assert accepted("three") == ("three", " three", "Three", " Three", "3", " 3")
    assert asked("How many cats?") == "How many cats? Answer in one word."


def test_the_score_is_the_mass_of_the_right_first_token_and_is_not_normalised():
    answer = completion("Two", {"Two": math.log(0.4), " 2": math.log(0.1), "Three": math.log(0.3)})
    assert first_token_probability(answer, accepted("two")) == pytest.approx(0.5)
    assert first_token_probability(answer, accepted("four")) == 0.0
    assert isinstance(first_token_probability(answer, accepted("four")), float), "it was the whole number 0"
    raw = completion("Two", {"Two": math.log(0.4), "ĠTwo": math.log(0.2), "▁2": math.log(0.1), "Three": math.log(0.3)})
    assert first_token_probability(raw, accepted("two")) == pytest.approx(0.7)


@pytest.mark.parametrize("answer", [
    completion("Two"), completion("Two", {}), completion("Two", {"Two": math.nan}), completion("Two", {"Two": "-1"}),
    completion("Two", {"Two": 0.5}), completion("Two", {"Two": 0.0, "2": 0.0}), {}, None, {"choices": [3]},
])  # fmt: skip
def test_what_has_no_probabilities_is_no_score(answer):
    with pytest.raises(NoProbabilities):
        first_token_probability(answer, accepted("two"))


@pytest.mark.parametrize(("how", "score"), [("mean", 0.5), ("geometric", 0.125 ** (1 / 3)), ("product", 0.125)])
def test_atoms_are_aggregated(how, score):
    assert aggregate([1.0, 0.25, 0.25], how) != aggregate([1.0, 0.25, 0.5], how)
    assert aggregate([0.75, 0.5, 0.25 if how == "mean" else 1 / 3], how) == pytest.approx(score)


def test_one_missing_atom_spoils_all_but_the_arithmetic_mean():
    assert [aggregate([1.0, 0.0], how) for how in ("mean", "geometric", "product")] == [0.5, 0.0, 0.0]

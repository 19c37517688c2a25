"""Which grade from 0 to 10 is in the answer of a judge, and what is none."""

import math

import pytest

from rewards.judge_answer import Grade, Unanswered, grade
from tests.rewards.servers import completion, spoken


def likely(**chances):
    """{token: logprob} from n7=0.6 and so on."""
    return {name.removeprefix("n"): math.log(p) for name, p in chances.items()}


def test_the_grade_is_the_expected_number_over_the_digits():
    answer = completion("8", likely(n7=0.3, n8=0.6, n9=0.1))
    assert grade(answer) == pytest.approx(7 * 0.3 + 8 * 0.6 + 9 * 0.1) == pytest.approx(7.8)
    assert Grade().read(answer) == pytest.approx(0.78)


def test_only_the_mass_on_grades_counts_and_spellings_are_added():
    top = likely(n7=0.2, n9=0.2) | {" 9": math.log(0.2), "The": math.log(0.3), "11": math.log(0.1)}
    assert grade(completion("7", top)) == pytest.approx((7 * 0.2 + 9 * 0.4) / 0.6)


def test_ten_as_one_token_leaves_one_alone():
    assert grade(completion("10", likely(n10=0.5, n1=0.3, n9=0.2))) == pytest.approx(5 + 0.3 + 1.8)


def test_ten_as_two_tokens_shares_the_mass_of_its_first():
    """p(10) = p("1") p("0" after "1"), p(1) = p("1") p(no digit after "1"); what begins 11 to 19 is no grade."""
    answer = spoken("10", ("1", likely(n1=0.8, n9=0.2)), ("0", likely(n0=0.6, n1=0.1) | {"\n": math.log(0.3)}))
    ten, one = 0.8 * 0.6, 0.8 * 0.3
    assert grade(answer) == pytest.approx((10 * ten + one + 9 * 0.2) / (ten + one + 0.2))


def test_a_one_that_ends_is_told_apart_from_a_ten_by_the_next_token():
    answer = spoken("1", ("1", likely(n1=1.0)), ("<|im_end|>", likely(n0=0.25) | {"<|im_end|>": math.log(0.75)}))
    assert grade(answer) == pytest.approx(10 * 0.25 + 0.75)


@pytest.mark.parametrize(("text", "expected"), [("1", 1 * 0.6 + 2 * 0.4), ("10", 10 * 0.6 + 2 * 0.4)])
def test_without_a_next_token_the_answer_says_what_its_one_begins(text, expected):
    tokens = [("1", likely(n1=0.6, n2=0.4))] + ([("0", {})] if text == "10" else [])
    assert grade(spoken(text, *tokens)) == pytest.approx(expected)


def test_a_one_that_may_begin_a_ten_is_left_out():
    """Taken as 1, it would be 6.8; the judge means 8, 9 or 10."""
    assert grade(completion("8", likely(n8=0.5, n9=0.3, n1=0.2))) == pytest.approx((8 * 0.5 + 9 * 0.3) / 0.8)


def test_less_than_half_of_the_mass_on_grades_is_a_failure():
    with pytest.raises(Unanswered, match="the numbers 0 to 10 together have probability 0.45, at least 0.5"):
        grade(completion("8", likely(n8=0.3, n9=0.15, Good=0.55)))
    with pytest.raises(Unanswered, match="probability 0.4"):
        grade(completion("8", likely(n8=0.4, n1=0.6)))  # nobody knows what this 1 begins


def test_the_token_after_the_thought_is_read():
    tokens = [(part, {part: -0.01}) for part in ("<think>", "3", "?", "</think>", "\n")]
    assert grade(spoken("<think>3?</think>\n8", *tokens, ("8", likely(n8=0.5, n6=0.5)))) == pytest.approx(7.0)


@pytest.mark.parametrize(("text", "number"), [
    ("0", 0), ("7", 7), ("10", 10), ("**7**", 7), ("7.", 7), (" 7/10 ", 7), ("10 / 10", 10), ("7 out of 10.", 7),
    ("7\n\nThe circle is red.", 7), ("<think>2 of 3</think> 7", 7), ("\uff17", 7),
])  # fmt: skip
def test_without_log_probabilities_the_number_counts(text, number):
    assert grade(completion(text)) == number


@pytest.mark.parametrize("text", [
    "11", "100", "-3", "7.5", "0.7", "07", "seven", "3 out of 5", "3/5", "1. The circle is red", "1 of two circles",
    "2 red circles", "7 8", "Score: 7", "between 6 and 8", "yes", "", None, "<think>7", "\u0667", "7 (of 10)", "1e1",
])  # fmt: skip
def test_anything_else_is_no_grade(text):
    """Many begin with a number that is not the grade."""
    with pytest.raises(Unanswered):
        grade(completion(text))


def test_a_number_at_the_end_of_a_cut_answer_may_be_longer():
    answer = completion("1", likely(n1=1.0))
    answer["choices"][0]["finish_reason"] = "length"
    with pytest.raises(Unanswered, match="cut off.*raise max_tokens"):
        grade(answer)
    answer = completion("7\nThe circle")
    answer["choices"][0]["finish_reason"] = "length"
    assert grade(answer) == 7, "the line is whole"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.0, None, "-0.1", True])
def test_what_is_no_log_probability_is_a_failure(bad):
    with pytest.raises(Unanswered, match="no log-probability"):
        grade(completion("7", {"7": bad, "8": -0.5}))
    with pytest.raises(Unanswered, match="no log-probability"):
        grade(spoken("10", ("1", {"1": 0.0}), ("0", {"0": bad})))


def test_probabilities_that_add_up_to_more_than_one_are_a_failure():
    with pytest.raises(Unanswered, match="add up to 2"):
        grade(completion("7", {"7": 0.0, "8": 0.0}))

"""What counts as an answer of a judge, and what does not."""

import math

import pytest

from rewards.judge_answer import Unanswered, plain, probability
from tests.rewards.servers import completion, spoken

WORDS = ("yes", "no")
YES = {"Yes": -0.2, "ĠNo": -1.7}


def test_every_spelling_of_a_word_counts_for_it():
    """It was 1.0: ` No` with a space written as a letter was no known word."""
    share = math.exp(-0.2) / (math.exp(-0.2) + math.exp(-1.7))
    assert probability(completion("Yes", YES), WORDS) == pytest.approx(share) == pytest.approx(0.82, abs=0.005)


@pytest.mark.parametrize("token", ["Yes", " yes", "ĠYes", "▁yes", "YES.", '"Yes', "“yes”", "**Yes**", "Ｙｅｓ", "Ċyes"])
def test_a_token_is_known_in_what_tokenizers_make_of_it(token):
    top = {token: math.log(0.6), "No": math.log(0.3)}
    assert probability(completion("Yes", top), WORDS) == pytest.approx(2 / 3)


def test_the_probabilities_of_all_spellings_are_added():
    """Change: the last spelling alone counted."""
    top = {"Yes": math.log(0.3), " yes": math.log(0.2), "No": math.log(0.15), " no": math.log(0.1)}
    assert probability(completion("Yes", top), WORDS) == pytest.approx(0.5 / 0.75)


def test_a_token_given_as_bytes_is_read():
    answer = spoken("Yes", ("Yes", {"Yes": math.log(0.6)}))
    entry = answer["choices"][0]["logprobs"]["content"][0]
    entry["top_logprobs"].append({"token": "token_id:2308", "bytes": list(b" No"), "logprob": math.log(0.3)})
    assert probability(answer, WORDS) == pytest.approx(2 / 3)


def test_tiny_mass_at_another_token_is_no_reward():
    """It was .73: <think> with probability 1, yes and no with e^-23 and e^-24."""
    top = {"<think>": 0.0, "Yes": -23.0, "No": -24.0}
    with pytest.raises(Unanswered, match="max_tokens"):
        probability(completion("<think>", top), WORDS)
    with pytest.raises(Unanswered, match="together have probability 1.4e-10"):
        probability(completion("Yes", {"Indeed": 0.0, "Yes": -23.0, "No": -24.0}), WORDS)


def test_less_than_half_of_the_mass_is_a_failure_and_half_is_not():
    with pytest.raises(Unanswered, match="at least 0.5"):
        probability(completion("Yes", {"Yes": math.log(0.3), "No": math.log(0.19), "It": math.log(0.5)}), WORDS)
    assert probability(completion("Yes", {"Yes": math.log(0.3), "No": math.log(0.21)}), WORDS) == pytest.approx(
        0.3 / 0.51
    )


@pytest.mark.parametrize("text", ["<think>\nNo? It is.\n</think>\n\nYes", "No? It is.\n</think>\n\nYes"])
def test_the_token_after_the_thought_is_read_and_not_one_inside(text):
    tokens = [(part, {part: -0.01}) for part in ("<think>", "\n", "No", "? It is.", "\n", "</think>", "\n\n")]
    assert probability(spoken(text, *tokens, ("Yes", YES)), WORDS) == pytest.approx(0.8176, abs=1e-4)


def test_a_thought_in_a_field_of_its_own_may_stand_among_the_tokens():
    tokens = [(part, {part: -0.01}) for part in ("<think>", "No", " or", " Yes", "?", "</think>")]
    answer = spoken("Yes", *tokens, ("Yes", YES), reasoning_content="No or Yes?")
    assert probability(answer, WORDS) == pytest.approx(0.8176, abs=1e-4)


def test_white_space_and_marks_before_the_answer_are_passed_over():
    tokens = [("\n", {"\n": 0.0}), ("**", {"**": 0.0, "Yes": -9.0, "No": -30.0}), ("Yes", YES), ("**", {"**": 0.0})]
    assert probability(spoken("\n**Yes**", *tokens), WORDS) == pytest.approx(0.8176, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.0, None, "-0.1", True])
def test_what_is_no_log_probability_is_a_failure(bad):
    with pytest.raises(Unanswered, match="no log-probability"):
        probability(completion("Yes", {"Yes": bad, "No": -0.5}), WORDS)


def test_probabilities_that_add_up_to_more_than_one_are_a_failure():
    with pytest.raises(Unanswered, match="add up to 2"):
        probability(completion("Yes", {"Yes": 0.0, "No": 0.0}), WORDS)


def test_a_word_without_any_chance_may_have_minus_infinity():
    assert probability(completion("Yes", {"Yes": 0.0, "No": -math.inf}), WORDS) == 1.0


@pytest.mark.parametrize("top", ["absent", None, []])
def test_without_alternatives_the_word_counts(top):
    answer = completion("No.", {"No": -0.1})
    entry = answer["choices"][0]["logprobs"]["content"][0]
    if top == "absent":
        del entry["top_logprobs"]
    else:
        entry["top_logprobs"] = top
    assert probability(answer, WORDS) == 0.0


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_without_log_probabilities_the_word_counts(logprobs):
    answer = completion("Yes, it does")
    answer["choices"][0]["logprobs"] = logprobs
    assert probability(answer, WORDS) == 1.0


@pytest.mark.parametrize("text", ["Not sure", "Nothing", "Maybe", "Yesterday", "", None, "y", "[]", "0.7"])
def test_another_word_is_no_answer(text):
    with pytest.raises(Unanswered):
        probability(completion(text), WORDS)


def test_a_thought_without_an_answer_says_what_to_do():
    answer = completion(None)
    answer["choices"][0]["message"]["reasoning_content"] = "I see a"
    with pytest.raises(Unanswered, match="raise it, or turn thinking off"):
        probability(answer, WORDS)


def test_text_in_parts_is_read():
    assert probability(completion([{"type": "text", "text": "Yes"}]), WORDS) == 1.0


@pytest.mark.parametrize(
    "garbage", [None, 3, [], {}, {"choices": None}, {"choices": [3]}, {"choices": [{"message": 1}]}]
)
def test_what_is_no_completion_is_said_to_be_none(garbage):
    with pytest.raises(Unanswered, match="no chat completion"):
        probability(garbage, WORDS)


def test_plain_keeps_different_words_apart():
    assert [plain(word) for word in ("Yes", "no!", "Not", "Ġ")] == ["yes", "no", "not", "ġ"]

"""Scores of texts, checked by hand and against the functions of trl that they are the words' version of."""

import numpy as np
import pytest
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub
from rewards.texts import FormScorer, LengthScorer, form, length, repetition


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think> one circle is missing . put red circle at top left . </think>", 1.0),
        ("  <think>\none line\nand another\n</think>\n", 1.0),
        ("one circle is missing .", 0.0),
        ("<think> one circle is missing .", 0.0),
        ("<think>  . </think>", 0.0),
        ("<think> a </think> b", 0.0),
        ("<think> a </think> <think> b </think>", 0.0),
        ("<think> <think> a </think> </think>", 0.0),
    ],
)
def test_a_reflection_is_one_block_of_think_tags_with_words_in_it(text, score):
    assert form(text) == score


def test_the_form_may_be_another_one():
    assert form("VERDICT: yes\nmore", r"VERDICT: (yes|no)\b.*") == 1.0
    assert form("verdict: yes", r"VERDICT: (yes|no)\b.*") == 0.0
    with pytest.raises(InputError, match=r"the pattern '\(' is not a regular expression"):
        FormScorer(pattern="(")


def words(n: int) -> str:
    return " ".join(f"w{i}" for i in range(n))


def test_length_rises_to_one_stays_and_falls_again():
    scores = [length(words(n), most=6, margin=4, least=2) for n in (0, 1, 2, 6, 7, 9, 10, 30)]
    assert scores == [0.0, 0.5, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    assert [length(words(n), most=2) for n in (0, 2, 3)] == [1.0, 1.0, 0.0]
    with pytest.raises(InputError, match="least 5 is above most 4"):
        LengthScorer(most=4, least=5)


def test_length_is_one_plus_trls_overlong_punishment():
    punished = get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4)
    counts = range(14)
    ours = [length(words(n), most=6, margin=4) for n in counts]
    assert ours == pytest.approx([1 + value for value in punished([[0] * n for n in counts])])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("text", ["", "a", "a a a a", "a b c a b c", "a b c d", "draw a cat draw a cat draw"])
def test_repetition_is_one_plus_trls_penalty(text, n):
    ids = [hash(word) for word in text.split()]
    [penalty] = get_repetition_penalty_reward(ngram_size=n, max_penalty=-1.0)([ids])
    assert repetition(text, n) == pytest.approx(1 + penalty)


def test_scorers_of_texts_are_named_in_a_recipe_and_never_fail():
    specs = [
        {"name": "form", "kind": "form", "of": "reflection"},
        {"name": "short", "kind": "length", "of": "reflection", "most": 2, "margin": 2},
        {"name": "new", "kind": "repetition", "of": "reflection", "n": 1},
    ]
    hub, texts = RewardHub(specs), ["<think> a a </think>", "<think> a </think>", "a"]
    images = [np.zeros((4, 4, 3), np.uint8)] * 3
    found = hub.score_reflections(images, [Prompt("p", "a circle")] * 3, texts)
    assert found == {"form": [1.0, 1.0, 0.0], "short": [0.0, 0.5, 1.0], "new": [0.75, 1.0, 1.0]}

"""A reflection stops only where a sentence of it ends with the stop phrase."""

import pytest

from irg_rl.stop_phrase import says

USUAL = "nothing to change"


@pytest.mark.parametrize("text", [
    "nothing to change",
    "i see a cross . nothing to change .",
    "All is right: Nothing to change.",
    "NOTHING TO CHANGE!  ",
    "Nothing to change. The dog is red.",
    "Nothing to change\nThe dog is red.",
    "Nothing to change\r\n",
    'It says "nothing to change".',
    "**Nothing to change**",
    "**Nothing to change.**",
    "<think> nothing to change </think>",
    "nothing to change<|im_end|>",
    "(There is nothing to change).",
    "nothing to change。",
    "Nothing to change in the sky, but the dog must be red. Else nothing to change.",
])  # fmt: skip
def test_a_sentence_that_ends_with_the_phrase_says_it(text):
    assert says(USUAL, text)


@pytest.mark.parametrize("text", [
    "",
    "the star is missing",
    "Nothing to change in the sky, but the dog must be red.",
    "nothing to change, except for the dog",
    '"Nothing to change" would be wrong: the dog is blue.',
    "There is **nothing to change** in the sky. The dog must be red.",
    "nothing to change <b>here</b>, the dog is blue",
    "nothing to changes.",
    "Is there nothing to change? No: the dog must be red.",
    "Nothing to change... but the dog must be red.",
])  # fmt: skip
def test_a_sentence_that_goes_on_does_not_say_it(text):
    assert not says(USUAL, text)


def test_a_phrase_that_is_no_word_at_its_end_may_stand_anywhere():
    assert says("<stop>", "all is well <STOP> and more") and not says("<stop>", "stop")
    assert says("No further edit needed.", "No further edit needed. Well done")
    assert not says("No further edit needed.", "No further edit needed")


@pytest.mark.parametrize("phrase", [USUAL, "a.b", "$", "[x"])
def test_a_phrase_is_taken_as_it_is_and_not_as_a_pattern(phrase):
    assert says(phrase, f"Well: {phrase}.") and not says(phrase, "aXb x")

"""Scores of a reflection that need only its text: does it have the expected form, is it too long or too short, and does
it repeat itself? Every score is in [0, 1], and 1 is best. A word is a run of characters between white space.

These scores say nothing about whether a reflection is true. Use them beside a scorer that looks at the image.
"""

import re
from typing import Annotated

from pydantic import Field

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, require_pairs

THOUGHT = r"<think>(?:(?!</?think>).)*\w(?:(?!</?think>).)*</think>"
"""The usual form of a reflection: one block of <think> tags with at least one word in it, and nothing around it."""


def form(text: str, pattern: str = THOUGHT) -> float:
    """Return 1 if the whole text matches the regular expression `pattern`, and 0 if not. White space around the text
    does not count. The dot of the expression also matches line ends.

    >>> form("<think> one circle is missing . </think>"), form("one circle is missing .")
    (1.0, 0.0)
    """
    return float(re.fullmatch(pattern, text.strip(), re.DOTALL) is not None)


def length(text: str, most: int, margin: int = 0, least: int = 0) -> float:
    """Return a score for the number of words n:

        n / least                      if n < least
        1                              if least <= n <= most
        max(0, 1 - (n - most)/margin)  if n > most; 0 if margin is 0

    The last line minus 1 is the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), counted in words.

    >>> length("a b c d e", most=4, margin=2)
    0.5
    """
    n = len(text.split())
    if n < least:
        return n / least
    if n <= most:
        return 1.0
    return max(0.0, 1.0 - (n - most) / margin) if margin else 0.0


def repetition(text: str, n: int = 3) -> float:
    """Return the number of different n-grams of words, divided by the number of all n-grams. The score is 1 if no
    n-gram occurs twice, or if the text has fewer than n words.

    This is 1 plus the repetition penalty of arXiv 2502.03373 (appendix C.2) with weight -1, counted in words.

    >>> repetition("draw a cat draw a cat", n=2)
    0.6
    """
    words = text.split()
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


class _TextRule:
    """What all scorers in this module share: they need no file and no server, and they never fail."""

    def __init__(self, name: str) -> None:
        self.name, self.last_error = name, ""

    def check(self) -> None:
        """Do nothing, because a scorer of texts needs nothing outside this process."""

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        require_pairs(images, prompts)
        return self.score_texts(texts)

    def score_texts(self, texts: list[str]) -> list[Score]:
        return [self.value(text) for text in texts]

    def value(self, text: str) -> float:
        raise NotImplementedError


class FormScorer(_TextRule):
    """Scores a reflection with 1 if it has the expected form, and with 0 if not; see `form`."""

    def __init__(self, name: str = "form", pattern: str = THOUGHT) -> None:
        super().__init__(name)
        try:
            re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise InputError(f"form: the pattern {pattern!r} is not a regular expression: {error}") from error
        self.pattern = pattern

    def value(self, text: str) -> float:
        return form(text, self.pattern)


class LengthScorer(_TextRule):
    """Scores a reflection by its number of words; see `length`."""

    def __init__(
        self,
        most: Annotated[int, Field(ge=1)],
        name: str = "length",
        margin: Annotated[int, Field(ge=0)] = 0,
        least: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(name)
        if least > most:
            raise InputError(f"length: least {least} is above most {most}, so no text would have the score 1")
        self.most, self.margin, self.least = most, margin, least

    def value(self, text: str) -> float:
        return length(text, self.most, self.margin, self.least)


class RepetitionScorer(_TextRule):
    """Scores a reflection by how little it repeats itself; see `repetition`."""

    def __init__(self, name: str = "repetition", n: Annotated[int, Field(ge=1)] = 3) -> None:
        super().__init__(name)
        self.n = n

    def value(self, text: str) -> float:
        return repetition(text, self.n)

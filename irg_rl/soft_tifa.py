"""Soft-TIFA, the scoring method of GenEval 2 (facebookresearch/GenEval2): a prompt consists of atoms (single facts), a
judge answers one question about each of them, and the score of an atom is the probability of the right answer. The
score of an image is a mean over the atoms of its prompt.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

Aggregate = Literal["mean", "geometric", "product"]
"""How the scores of the parts of a prompt become one score, see `aggregate`."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t", "\u00a0": " "})
"""Characters that stand for white space in the tokens of some servers."""
_MOST_MASS = 1.05
"""Largest accepted total probability of all alternatives of one token. Rounding can make the total slightly larger than
1."""


class NoProbabilities(ValueError):
    """Raised if an answer has no usable probabilities. The message says why."""


def asked(question: str) -> str:
    """Return what the judge is asked for one atom."""
    return f"{question} Answer in one word."


def accepted(answer: str) -> tuple[str, ...]:
    """Return all accepted spellings of the right answer `answer`. The score of a question is the probability that the
    first token of the judge's answer is one of them. There are spellings with and without a capital letter, and with
    and without a leading space. For a number word, the digits are accepted too."""
    words = [answer.lower(), answer.lower().capitalize()]
    if answer.lower() in NUMBERS:
        words.append(str(NUMBERS.index(answer.lower()) + 1))
    return tuple(dict.fromkeys(space + word for word in words for space in ("", " ")))


def first_token_probability(completion: Any, spellings: Sequence[str]) -> float:
    """Return the probability, in [0, 1], that the first token of the judge's answer is one of the accepted spellings.
    The server returns some alternatives for this token, with their probabilities. The result is the sum over all
    alternatives that are accepted spellings. `completion` is the chat completion of the judge.

    Raises NoProbabilities if the server returned no probabilities, or if a number is not a log-probability.
    """
    try:
        first = [(one["token"].translate(SPACES), one["logprob"]) for one in _first_alternatives(completion)]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NoProbabilities(
            "no log-probabilities in the answer: the judge's server must send top_logprobs"
        ) from error
    if not first:
        raise NoProbabilities("no alternatives of the first token in the answer")
    return min(math.fsum(p for token, p in probabilities(first) if token in spellings), 1.0)


def probabilities(alternatives: Iterable[tuple[str, Any]]) -> list[tuple[str, float]]:
    """Return the alternatives of one token, pairs (text, log-probability), as pairs (text, probability). Raises
    NoProbabilities if a number is not a log-probability, or if the probabilities add up to more than 1."""
    found, total = [], 0.0
    for token, logprob in alternatives:
        if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= 0.01:
            raise NoProbabilities(f"{logprob!r} is no log-probability")
        found.append((token, math.exp(min(logprob, 0.0))))
        total += found[-1][1]
    if total > _MOST_MASS:
        raise NoProbabilities(f"the probabilities of one token add up to {total:.3g}")
    return found


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """Return one score for an image from the scores s_1 ... s_n, in [0, 1], of the parts of its prompt:

        mean       (s_1 + ... + s_n) / n             Soft-TIFA AM
        geometric  (s_1 * ... * s_n) ** (1 / n)      Soft-TIFA GM; 0 if one of them is 0
        product    s_1 * ... * s_n

    >>> aggregate([1.0, 0.25], "mean"), aggregate([1.0, 0.25], "geometric"), aggregate([1.0, 0.25], "product")
    (0.625, 0.5, 0.25)
    """
    if how == "mean":
        return math.fsum(scores) / len(scores)
    if how == "product" or 0.0 in scores:
        return math.prod(scores)
    return math.exp(math.fsum(map(math.log, scores)) / len(scores))


def _first_alternatives(completion: Any) -> Any:
    return completion["choices"][0]["logprobs"]["content"][0]["top_logprobs"]

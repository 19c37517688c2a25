"""Read a number from the chat completion of a judge.

The answer is the first word of the text, after white space and after the thoughts of a reasoning model. If the endpoint
gives log-probabilities, only the log-probabilities at the token of this word are used. A tokenizer can have several
spellings of one word, and their probabilities are added. For example, all of these count as yes: `Yes`, ` yes`, `ĠYes`,
`▁yes`, `"Yes`, `YES.`.

There are three forms of answers: one of two words (`Choice`), a grade from 0 to 10 (`Grade`), and a word that has to be
one of some right answers (`RightWord`).
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol

from irg_rl.soft_tifa import SPACES, NoProbabilities, first_token_probability, probabilities

LEAST_MASS = 0.5
"""Smallest accepted total probability of the words that the judge may answer, such as yes and no, or the grades. If the
total is smaller, the token is not an answer to the question."""
MOST_GRADE = 10
_THOUGHT_ENDS = ("</think>", "</thinking>", "</thought>", "[/THINK]")
_THOUGHT_BEGINS = ("<think>", "<thinking>", "<thought>", "[THINK]")
_AROUND = " \t\r\n.,!?:;\"'`*_~()[]{}<>“”‘’«»„…。，！？：；「」"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_GRADES = {str(number): number for number in range(MOST_GRADE + 1)}
_GRADE = re.compile(rf"([0-9]+)(?:\s*(?:/|out of)\s*{MOST_GRADE})?")


class Unanswered(ValueError):
    """Raised if a chat completion does not answer the question. The message quotes the judge's text unchanged."""


class AnswerForm(Protocol):
    """What a judge is asked to answer with, and how the answer becomes a score in [0, 1]. Equal forms are equal
    objects."""

    alternatives: ClassVar[int]
    """Number of alternatives per token for which the server is asked."""

    def read(self, completion: Any) -> float:
        """Return the score of a chat completion. Raises Unanswered if it does not answer the question."""
        ...


@dataclass(frozen=True)
class Choice:
    """One of two words. The score is the probability of the first one, see `probability`."""

    alternatives: ClassVar[int] = 5
    first: str
    second: str

    def read(self, completion: Any) -> float:
        return probability(completion, (self.first, self.second))


@dataclass(frozen=True)
class Grade:
    """A whole number from 0 to 10. The score is its expected value divided by 10, see `grade`."""

    alternatives: ClassVar[int] = 20

    def read(self, completion: Any) -> float:
        return grade(completion) / MOST_GRADE


@dataclass(frozen=True)
class RightWord:
    """A word that is right or wrong. The score is the probability that the first token of the answer is one of the
    accepted spellings (`irg_rl.soft_tifa`). If the first token belongs to a thought, this is a failure."""

    alternatives: ClassVar[int] = 20
    accepted: tuple[str, ...]

    def read(self, completion: Any) -> float:
        answer, tokens, _ = answered(completion)
        if tokens and not (tokens[0].text.strip() and answer.startswith(tokens[0].text.strip())):
            first = tokens[0].text
            raise Unanswered(f"the first token {first!r} does not begin the answer {answer!r}: turn thinking off")
        try:
            return first_token_probability(completion, self.accepted)
        except NoProbabilities as error:
            raise Unanswered(str(error)) from error


YES_OR_NO, FIRST_OR_SECOND = Choice("yes", "no"), Choice("1", "2")


def probability(completion: Any, words: tuple[str, str]) -> float:
    """Return the probability that the answer is words[0]: p(words[0]) / (p(words[0]) + p(words[1])), in [0, 1].

    Without log-probabilities for the token of the answer, the result is 1 for the answer words[0] and 0 for the answer
    words[1]. Raises Unanswered in three cases:
    * The answer is neither word.
    * The two words together have a probability below LEAST_MASS.
    * A number is not a valid log-probability.
    """
    answer, tokens, _ = answered(completion)
    word = plain(answer.split()[0])
    if word not in words:
        raise Unanswered(f"the answer {answer!r} where {words[0]!r} or {words[1]!r} was asked for")
    place = _place_of(answer, word, tokens)
    if place is None or not tokens[place].alternatives:
        return 1.0 if word == words[0] else 0.0
    mass = _mass(tokens[place].probabilities(), words)
    both = sum(mass.values())
    if both < LEAST_MASS:
        _refuse_mass(f"{words[0]!r} and {words[1]!r}", both)
    return mass[words[0]] / both


def grade(completion: Any) -> float:
    """Return the expected grade, in [0, 10], over the probabilities p(n) of the grades n at the token of the answer:

        sum over n of n p(n) / sum over n of p(n)

    "10" may be one token or two. If it is two, the token "1" begins both 1 and 10. If the answer begins with "1", the
    alternatives of the next token divide its probability between them. Otherwise nothing is known about the next token,
    and the probability of "1" is left out.

    Without log-probabilities, the result is the number in the text. The first line of the answer must be this number
    alone, or with "/10" or "out of 10" behind it. Raises Unanswered in four cases:
    * The answer is not such a number.
    * The answer was cut off behind the number, so that it may be the beginning of another one.
    * The grades together have a probability below LEAST_MASS.
    * A number is not a valid log-probability.
    """
    answer, tokens, is_cut = answered(completion)
    line, _, rest = answer.partition("\n")
    found = _GRADE.fullmatch(plain(line))
    if found is None or found[1] not in _GRADES:
        raise Unanswered(f"the answer {answer!r} where a whole number from 0 to {MOST_GRADE} alone was asked for")
    if is_cut and not rest:
        raise Unanswered(f"the answer {answer!r} was cut off, so the number may be longer: raise max_tokens")
    number = found[1]
    place = _place_of(answer, number, tokens)
    if place is None or not tokens[place].alternatives or plain(tokens[place].text) not in _GRADES:
        return float(number)
    mass = _grade_mass(number, tokens[place], tokens[place + 1 : place + 2])
    total = sum(mass.values())
    if total < LEAST_MASS:
        _refuse_mass(f"the numbers 0 to {MOST_GRADE}", total)
    return min(sum(_GRADES[word] * p for word, p in mass.items()) / total, float(MOST_GRADE))


def _grade_mass(number: str, token: "_Token", following: "list[_Token]") -> dict[str, float]:
    """Return the probability of each grade, as far as it is known. `number` is the answer, `token` its first token, and
    `following` the next one, if there is one."""
    mass = _mass(token.probabilities(), _GRADES)
    if plain(token.text) == "1":
        begun = mass["1"]
        after = dict.fromkeys("0123456789", 0.0)
        for text, p in following[0].probabilities() if following else []:
            if text in after:
                after[text] += p
        if following and following[0].alternatives:
            mass["1"] = begun * max(1 - sum(after.values()), 0.0)
            mass["10"] += begun * after["0"]
        else:
            mass["1"] = 0.0
            mass[number] += begun
    elif not mass["10"]:
        mass["1"] = 0.0
    return mass


def answered(completion: Any) -> "tuple[str, list[_Token], bool]":
    """Return the answer in a chat completion, without thoughts and surrounding white space, all tokens of the
    completion, and whether it was cut off at its largest length. Raises Unanswered if there is no answer."""
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        text = _text_of(message.get("content"))
        tokens = [_Token(entry) for entry in (choice.get("logprobs") or {}).get("content") or []]
        is_cut = choice.get("finish_reason") == "length"
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unanswered(f"no chat completion: {str(completion)}") from error
    answer = _after_thought(text)
    if not answer:
        raise Unanswered(_no_answer(choice, message, text))
    return answer, tokens, is_cut


def plain(spelling: str) -> str:
    """Return a word in lower case, without surrounding white space, quotes and punctuation marks."""
    return unicodedata.normalize("NFKC", spelling).strip(_AROUND).casefold()


class _Token:
    """A token of the answer: its text, and its alternatives as pairs (text, log-probability)."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.text = _spelled(entry)
        self.alternatives = [(_spelled(one), one.get("logprob")) for one in entry.get("top_logprobs") or []]

    def probabilities(self) -> list[tuple[str, float]]:
        """Return the alternatives as pairs (text, probability). Raises Unanswered if they are not probabilities."""
        try:
            return probabilities(self.alternatives)
        except NoProbabilities as error:
            raise Unanswered(str(error)) from error


def _spelled(entry: dict[str, Any]) -> str:
    """Return the text of a token. `entry` is the JSON of the token. The text is decoded from its field `bytes`, or
    taken from its field `token` if there are no bytes."""
    raw = entry.get("bytes")
    if isinstance(raw, list) and raw and all(type(one) is int and 0 <= one < 256 for one in raw):
        return bytes(raw).decode("utf-8", errors="replace").translate(SPACES)
    name = entry.get("token")
    if not isinstance(name, str):
        return ""
    if _BYTE.search(name):
        name = _BYTE.sub(lambda byte: chr(int(byte[1], 16)), name)
    return name.translate(SPACES)


def _text_of(content: Any) -> str:
    """Return the text of a chat message. The `content` of a message may be a string, None, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError("the content of a message is text")
    return content


def _after_thought(text: str) -> str:
    """Return the text after the thoughts of a reasoning model. Returns "" if the thoughts never end."""
    for end in _THOUGHT_ENDS:
        if end in text:
            text = text.rpartition(end)[2]
    text = text.strip()
    return "" if text.startswith(_THOUGHT_BEGINS) else text


def _no_answer(choice: dict[str, Any], message: dict[str, Any], text: str) -> str:
    thought = text.strip() or message.get("reasoning_content") or message.get("reasoning")
    if choice.get("finish_reason") == "length" or thought:
        return f"no answer, only a thought that fills max_tokens: raise it, or turn thinking off ({str(thought)!r})"
    return "an empty answer"


def _place_of(answer: str, word: str, tokens: list[_Token]) -> int | None:
    """Return the place of the token that begins the first word of the answer. It is found by its position in the joined
    text of all tokens. If that fails, the place of the last token that spells the word is returned, or None if there is
    none."""
    start = "".join(token.text for token in tokens).rfind(answer)
    if start >= 0:
        end = 0
        for place, token in enumerate(tokens):
            end += len(token.text)
            if end > start and plain(token.text):
                return place
    return next((place for place in reversed(range(len(tokens))) if plain(tokens[place].text) == word), None)


def _mass(probabilities: Iterable[tuple[str, float]], words: Iterable[str]) -> dict[str, float]:
    """Return the total probability of all spellings of each word."""
    mass = dict.fromkeys(words, 0.0)
    for spelling, p in probabilities:
        if (word := plain(spelling)) in mass:
            mass[word] += p
    return mass


def _refuse_mass(words: str, mass: float) -> NoReturn:
    raise Unanswered(f"{words} together have probability {mass:.2g}, at least {LEAST_MASS} is asked")

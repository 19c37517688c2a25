"""Read a probability from the chat completion of a judge.

The answer is the first word of the text, after white space and after the thoughts of a reasoning model. If the endpoint
gives log-probabilities, only the log-probabilities at the token of this word are used. A tokenizer can have several
spellings of one word, and their probabilities are added. For example, all of these count as yes: `Yes`, ` yes`, `ĠYes`,
`▁yes`, `"Yes`, `YES.`.
"""

import math
import re
import unicodedata
from typing import Any

LEAST_MASS = 0.5
"""Smallest accepted total probability of the two words that the judge may answer, such as yes and no. If the total is
smaller, the token is not an answer to the question."""
_MOST_MASS = 1.05
"""Largest accepted total probability of all alternatives that the endpoint lists for one token. This limit is above 1,
because rounding can make the total slightly larger than 1."""
_THOUGHT_ENDS = ("</think>", "</thinking>", "</thought>", "[/THINK]")
_THOUGHT_BEGINS = ("<think>", "<thinking>", "<thought>", "[THINK]")
_AROUND = " \t\r\n.,!?:;\"'`*_~()[]{}<>“”‘’«»„…。，！？：；「」"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t", "\u00a0": " "})


class Unanswered(ValueError):
    """Raised if a chat completion does not answer the question. The message quotes the judge's text unchanged."""


def probability(completion: Any, words: tuple[str, str]) -> float:
    """Return the probability that the answer is words[0]: p(words[0]) / (p(words[0]) + p(words[1])), in [0, 1].

    Without log-probabilities for the token of the answer, the result is 1 for the answer words[0] and 0 for the answer
    words[1]. Raises Unanswered in three cases:
    * The answer is neither word.
    * The two words together have a probability below LEAST_MASS.
    * A number is not a valid log-probability.
    """
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        text = _text_of(message.get("content"))
        tokens = [_Token(entry) for entry in (choice.get("logprobs") or {}).get("content") or []]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unanswered(f"no chat completion: {str(completion)}") from error
    answer = _after_thought(text)
    if not answer:
        raise Unanswered(_no_answer(choice, message, text))
    word = plain(answer.split()[0])
    if word not in words:
        raise Unanswered(f"the answer {answer!r} where {words[0]!r} or {words[1]!r} was asked for")
    token = _token_of(answer, word, tokens)
    if token is None or not token.alternatives:
        return 1.0 if word == words[0] else 0.0
    return _share(token.alternatives, words)


def plain(spelling: str) -> str:
    """Return a word in lower case, without surrounding white space, quotes and punctuation marks."""
    return unicodedata.normalize("NFKC", spelling).strip(_AROUND).casefold()


class _Token:
    """A token of the answer: its text, and its alternatives as pairs (text, log-probability)."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.text = _spelled(entry)
        self.alternatives = [(_spelled(one), one.get("logprob")) for one in entry.get("top_logprobs") or []]


def _spelled(entry: dict[str, Any]) -> str:
    """Return the text of a token. `entry` is the JSON of the token. The text is decoded from its field `bytes`, or
    taken from its field `token` if there are no bytes."""
    raw = entry.get("bytes")
    if isinstance(raw, list) and raw and all(type(one) is int and 0 <= one < 256 for one in raw):
        return bytes(raw).decode("utf-8", errors="replace").translate(_SPACES)
    name = entry.get("token")
    if not isinstance(name, str):
        return ""
    if _BYTE.search(name):
        name = _BYTE.sub(lambda byte: chr(int(byte[1], 16)), name)
    return name.translate(_SPACES)


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


def _token_of(answer: str, word: str, tokens: list[_Token]) -> _Token | None:
    """Return the token that holds the first word of the answer. It is found by its position in the joined text of all
    tokens. If that fails, the last token that spells the word is returned, or None if there is none."""
    start = "".join(token.text for token in tokens).rfind(answer)
    if start >= 0:
        end = 0
        for token in tokens:
            end += len(token.text)
            if end > start and plain(token.text):
                return token
    return next((token for token in reversed(tokens) if plain(token.text) == word), None)


def _share(alternatives: list[tuple[str, Any]], words: tuple[str, str]) -> float:
    mass, total = dict.fromkeys(words, 0.0), 0.0
    for spelling, logprob in alternatives:
        if isinstance(logprob, bool) or not isinstance(logprob, int | float) or math.isnan(logprob) or logprob > 0.01:
            raise Unanswered(f"{logprob!r} is no log-probability")
        p = math.exp(min(logprob, 0.0))
        total += p
        if (word := plain(spelling)) in mass:
            mass[word] += p
    if total > _MOST_MASS:
        raise Unanswered(f"the probabilities of one token add up to {total:.3g}")
    both = sum(mass.values())
    if both < LEAST_MASS:
        pair = f"{words[0]!r} and {words[1]!r}"
        raise Unanswered(f"{pair} together have probability {both:.2g}, at least {LEAST_MASS} is asked")
    return mass[words[0]] / both

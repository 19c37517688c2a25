"""Finds the edit in a reflection: the part that says what to change in the image.

Two formats are known:
* Sections with headings, as IRG's teachers write them. The edit begins at the first line that starts with `### `.
* Sentences, as in the shapes world: `one circle is missing . put cyan circle at north .` A sentence that begins with
  a verb such as `put` or `remove` is an edit.

A sentence that ends with "nothing to change" is marked as a stop. Text in another format is returned as one part,
without a mark.
"""

import re
from collections.abc import Iterator

from irg_rl.stop_phrase import says

EDIT, STOP, PLAIN = "edit", "stop", ""
_VERBS = (
    "add", "adjust", "change", "correct", "darken", "decrease", "delete", "draw", "enlarge", "erase", "fix", "increase",
    "insert", "lighten", "make", "move", "paint", "place", "put", "recolor", "recolour", "reduce", "remove", "replace",
    "resize", "rotate", "shift", "shrink", "swap", "turn",
)  # fmt: skip
_IS_EDIT = re.compile(rf"\s*(?:<think>\s*)?(?:please\s+)?(?:{'|'.join(_VERBS)})\b", re.IGNORECASE)
_STOPS = ("nothing to change", "no change is needed", "no changes are needed")
_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)\s*|\n+|$)", re.DOTALL)
_HEADING = re.compile(r"^### ", re.MULTILINE)


def marked(text: str) -> list[tuple[str, str]]:
    """Split a reflection into parts, and return a list of (part, mark). A mark is `edit`, `stop`, or empty. All parts
    together are the whole text.

    >>> marked("one ring is extra . remove red ring at north .")
    [('one ring is extra . ', ''), ('remove red ring at north .', 'edit')]
    """
    heading = _HEADING.search(text)
    if heading is not None:
        before = [*_sentences(text[: heading.start()], edits=False)]
        return _joined([*before, (text[heading.start() :], EDIT)])
    return _joined(_sentences(text))


def _sentences(text: str, edits: bool = True) -> Iterator[tuple[str, str]]:
    for found in _SENTENCE.finditer(text):
        sentence = found[0]
        if not sentence:
            continue
        if any(says(stop, sentence) for stop in _STOPS):
            yield sentence, STOP
        else:
            yield sentence, EDIT if edits and _IS_EDIT.match(sentence) else PLAIN


def _joined(parts: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join neighbouring parts that have the same mark."""
    joined: list[tuple[str, str]] = []
    for part, mark in parts:
        if joined and joined[-1][1] == mark:
            joined[-1] = joined[-1][0] + part, mark
        else:
            joined.append((part, mark))
    return joined

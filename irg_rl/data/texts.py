"""Mends the texts of a teacher, and finds their mistakes. All functions are pure: they look at words alone.

To mend is to change the form and never the content: tags, code fences and the spelling of headings. A text with a
mistake is never changed. The teacher is asked again, or the text is left out and counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from irg_rl.config.data import TeacherRecipe
from irg_rl.config.data_questions import LANGUAGES
from irg_rl.data.language import is_written_in
from irg_rl.stop_phrase import says

LEAST_NEW_WORDS = 4
"""A text that contains the whole prompt must have at least this many other words."""
ALIKE = 0.9
"""A text whose words are this similar to those of the prompt repeats the prompt (ratio of difflib, from 0 to 1)."""
COPIED_WORDS = 15
"""A text with this many words in a row from the teacher's question repeats the question."""


class Flaw(StrEnum):
    """A mistake in a teacher's text."""

    UNFINISHED = "unfinished"
    EMPTY = "empty"
    REFUSAL = "refusal"
    LANGUAGE = "another language"
    PROMPT = "repeats the prompt"
    QUESTION = "repeats the question"
    SECTION = "missing section"
    SPECIAL = "special token"
    CONTRADICTION = "nothing to change, and yet changes"
    UNTRUE = "untrue"
    OVERLOOKED = "overlooks a defect"


REMARKS = {
    Flaw.UNFINISHED: "it was cut off. Write less",
    Flaw.EMPTY: "it was empty",
    Flaw.REFUSAL: "it does not do what was asked",
    Flaw.LANGUAGE: "it was in another language. Write in {language}",
    Flaw.PROMPT: "it repeats the prompt and adds nothing",
    Flaw.QUESTION: "it repeats the question",
    Flaw.SECTION: "a heading is missing, or has no text below it",
    Flaw.SPECIAL: "it has a control token, such as <|im_end|>",
    Flaw.CONTRADICTION: "it says that nothing has to change, and yet asks for changes",
    Flaw.UNTRUE: "it says something about the image that the image does not show",
    Flaw.OVERLOOKED: "it says that nothing has to change, but the image lacks something that the prompt asks for",
}
"""What the teacher is told when it is asked again."""


@dataclass(frozen=True)
class Mended:
    """A text without tags, and the names of the repairs that were needed."""

    text: str
    repairs: tuple[str, ...]


def mended(answer: str, headings: Sequence[str] = ()) -> Mended:
    """Return the text of an answer in its plain form. Repairs: `thought` (the private thought of a reasoning model
    stood before the answer), `tags` (the answer itself stood in think tags), `fence` (it stood in a code block) and
    `heading` (a heading had other marks, or was in another case)."""
    repairs = []
    text, thought, tail = answer.strip(), "", ""
    if "</think>" in text:
        thought, _, tail = text.rpartition("</think>")
        text, repair = (tail, "thought") if tail.strip() else (thought.rpartition("<think>")[2], "tags")
        repairs.append(repair)
    if text.startswith("<think>"):  # a second pair of tags around the answer, or tags that are never closed
        text = text.removeprefix("<think>")
        repairs.append("tags")
    text = text.strip()
    if (fenced := _FENCE.fullmatch(text)) is not None:
        text = fenced[1].strip()
        repairs.append("fence")
    for heading in headings:
        right = f"### {heading}"
        changed = _heading_line(heading).sub(lambda _, right=right: right, text)
        if changed != text:
            repairs.append("heading")
            text = changed
    return Mended(text, tuple(dict.fromkeys(repairs)))


_FENCE = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)


def _heading_line(heading: str) -> re.Pattern[str]:
    """Return a pattern for a line that is the heading, with any marks of Markdown around it and in any case."""
    words = r"\W+".join(map(re.escape, re.findall(r"\w+", heading)))
    return re.compile(rf"^[ \t]*(?:#+|\*+|\d+[.)])*[ \t]*\**[ \t]*{words}[ \t]*[:：]?\**[:：]?[ \t]*$", re.M | re.I)


def flaw_of(text: str, prompt: str, question: str, teacher: TeacherRecipe, is_reflection: bool) -> Flaw | None:
    """Return the first mistake in a mended text, or None. `question` is the teacher's question without the prompt."""
    words = _words(text)
    if not words:
        return Flaw.EMPTY
    if _REFUSAL.match(text):
        return Flaw.REFUSAL
    if _SPECIAL.search(text):
        return Flaw.SPECIAL
    if not is_written_in(text, teacher.language, without=(prompt, *teacher.headings)):
        return Flaw.LANGUAGE
    if _repeats(words, _words(prompt)):
        return Flaw.PROMPT
    if _longest_run(words, _words(question)) >= COPIED_WORDS:
        return Flaw.QUESTION
    return _flaw_of_sections(text, teacher) if is_reflection else None


def is_stop(text: str, stop_phrase: str) -> bool:
    """Return whether a reflection says that nothing has to change: one of its sentences ends with the stop phrase. Case
    and the final full stop do not matter."""
    return says(stop_phrase.rstrip(". "), text)


def seen_part(text: str, headings: Sequence[str]) -> str:
    """Return the part of a reflection that is about the image as it is: what stands before the first heading, or the
    whole text if there is none."""
    starts = [place for heading in headings if (place := text.find(f"### {heading}")) >= 0]
    return text[: min(starts)].strip() if starts else text


def tagged(text: str) -> str:
    """Return a text in think tags, as the model is to write it. A text that has them already is returned unchanged."""
    return text if text.lstrip().startswith("<think>") else f"<think> {text} </think>"


def remark(flaws: Sequence[Flaw], teacher: TeacherRecipe) -> str:
    """Return the sentences that are added to the question when the teacher is asked again. `flaws` has the mistakes of
    all earlier tries. They are all listed, so the question of every try differs, and no try gets a remembered
    answer."""
    reasons = [REMARKS[flaw].format(language=LANGUAGES[teacher.language]) for flaw in flaws]
    listed = " ".join(f"Answer {number}: {reason}." for number, reason in enumerate(reasons, 1))
    return f"\n\nYour answers so far could not be used. {listed} Answer again."


def _flaw_of_sections(text: str, teacher: TeacherRecipe) -> Flaw | None:
    places = [text.find(f"### {heading}") for heading in teacher.headings]
    if is_stop(text, teacher.stop_phrase):
        return Flaw.CONTRADICTION if any(place >= 0 for place in places) else None
    if not places:
        return None
    if -1 in places or places != sorted(places):
        return Flaw.SECTION
    ends = [*places[1:], len(text)]
    bodies = [
        text[start:end].removeprefix(f"### {heading}")
        for heading, start, end in zip(teacher.headings, places, ends, strict=True)
    ]
    return None if all(_words(part) for part in (text[: places[0]], *bodies)) else Flaw.SECTION


_REFUSAL = re.compile(
    r"\W*(?:i(?:['’]?m| am) (?:sorry|unable)|sorry,? (?:but|i)\b|i can(?:['’]?t|not)\b|as an ai\b)",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?think>")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _repeats(words: list[str], prompt: list[str]) -> bool:
    if not prompt:
        return False
    if SequenceMatcher(None, words, prompt, autojunk=False).ratio() >= ALIKE:
        return True
    return _longest_run(words, prompt) == len(prompt) and len(words) - len(prompt) < LEAST_NEW_WORDS


def _longest_run(words: list[str], others: list[str]) -> int:
    """Return how many words in a row both lists have in common."""
    return SequenceMatcher(None, words, others, autojunk=False).find_longest_match().size

"""The teacher writes a text. The text is mended and checked, and the teacher is asked again if it made a mistake."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from irg_rl.config.data import TeacherRecipe
from irg_rl.config.data_questions import LANGUAGES, SECTIONS
from irg_rl.data.answers import Service
from irg_rl.data.texts import Flaw, Mended, flaw_of, mended, remark
from irg_rl.trajectory import Prompt
from rewards.judge_answer import Unanswered

TextCheck = Callable[[str], Flaw | None]
"""A function that looks at a text without mistakes of form, and returns the mistake that it finds, or None."""


@dataclass
class Writing:
    """What came of one text. `text` is None if every try had a mistake. `flaws` has the mistake of each try that was
    not used, in order."""

    about: str
    text: str | None = None
    flaws: list[Flaw] = field(default_factory=list)
    repairs: tuple[str, ...] = ()

    @property
    def provenance(self) -> list[str]:
        """How the text was repaired, for the row: mended in its form, or written again after a mistake."""
        again = (f"asked again, {flaw}" for flaw in self.flaws)
        return [f"{self.about}: {repair}" for repair in (*self.repairs, *again)]


@dataclass(frozen=True)
class WritingTask:
    """A text to be written: its name in counts and in the log, the question with its place holders, and the images that
    the teacher sees."""

    about: str
    template: str
    pngs: Sequence[bytes] = ()
    is_reflection: bool = False


def write_text(
    teacher: Service, settings: TeacherRecipe, task: WritingTask, prompt: Prompt, check: TextCheck
) -> Writing:
    """Ask the teacher for a text, up to `settings.tries` times, and return what came of it. A text must have no mistake
    of form (see `texts.flaw_of`), and `check` must find none. Raises the errors of `Service.ask`."""
    headings = settings.headings if task.is_reflection else ()
    question = filled(task.template, settings, prompt.text, headings)
    bare = filled(task.template, settings, "", headings)
    writing, added = Writing(task.about), ""
    for _ in range(settings.tries):
        answer = teacher.ask(task.about, prompt.id, question + added, task.pngs, said)
        found = mended(answer["text"], headings)
        flaw = _flaw(answer, found, prompt, bare, settings, task) or check(found.text)
        if flaw is None:
            writing.text, writing.repairs = found.text, found.repairs
            break
        writing.flaws.append(flaw)
        added = remark(writing.flaws, settings)
    return writing


def _flaw(
    answer: dict[str, Any], found: Mended, prompt: Prompt, bare: str, settings: TeacherRecipe, task: WritingTask
) -> Flaw | None:
    if not answer["finished"]:
        return Flaw.UNFINISHED
    return flaw_of(found.text, prompt.text, bare, settings, task.is_reflection)


def filled(template: str, settings: TeacherRecipe, prompt: str, headings: Sequence[str]) -> str:
    """Return a question of the teacher with its place holders filled. Other braces stay as they are."""
    values = {
        "prompt": prompt,
        "language": LANGUAGES[settings.language],
        "headings": SECTIONS.format(names=", ".join(headings)) if headings else "",
        "stop": settings.stop_phrase,
    }
    return re.sub("{(" + "|".join(values) + ")}", lambda found: values[found[1]], template)


def said(completion: Any) -> dict[str, Any]:
    """Return the text of a chat completion, and whether it is finished. Raises Unanswered if there is no text."""
    try:
        choice = completion["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise Unanswered(f"no chat completion: {completion!r:.120}") from error
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if isinstance(part, dict) and isinstance(part.get("text"), str))
    if not isinstance(text, str):
        raise Unanswered(f"no text in the answer: {choice!r:.120}")
    return {"text": text, "finished": choice.get("finish_reason") != "length"}

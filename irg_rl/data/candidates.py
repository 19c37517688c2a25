"""The way of one prompt from its first image to its rows.

    first image -> plan -> reflection -> improved image -> preference -> thinking -> rows
                   teacher  teacher      folder, model     judge         teacher
                            judge        or editor

Every step may leave something out. The reason is kept, and the steps that do not need it go on. For example, a prompt
whose improved image is not preferred still gets a row that teaches the reflection. A question that failed is no reason:
the prompt waits, and the next build asks again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from irg_rl.config.data import DataRecipe
from irg_rl.data.answers import QuestionFailed, Service
from irg_rl.data.judging import DataJudge
from irg_rl.data.sources import FoundImage, LeftOut, NumberedPrompt, UnusableImage, read_image
from irg_rl.data.texts import Flaw, is_stop, seen_part
from irg_rl.data.writing import TextCheck, Writing, WritingTask, write_text
from irg_rl.trajectory import Prompt

FIRST, PLAN, REFLECTION, IMPROVED, THINKING = "first image", "plan", "reflection", "improved image", "thinking"
"""The things that are made for a prompt, as counts and messages name them."""


@dataclass
class Candidate:
    """A prompt on its way. A field is None as long as it is not made, or if it was left out."""

    asked: NumberedPrompt
    first: FoundImage | None = None
    plan: str | None = None
    """The think text before the first image: the model's own, or the teacher's, who saw the prompt alone."""
    reflection: str | None = None
    improved: FoundImage | None = None
    """The improved image. While `is_kept` is False, it is only proposed."""
    is_kept: bool = False
    thinking: str | None = None
    """The think text that leads to the good image."""
    scores: dict[str, float] = field(default_factory=dict)
    """What the judge said: name of the question -> probability."""
    writings: list[Writing] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    waiting: list[LeftOut] = field(default_factory=list)
    """What could not be decided, because a question failed. The next build asks again."""
    missing: list[LeftOut] = field(default_factory=list)
    """Images that are missing or broken. The next build looks again."""

    @property
    def prompt(self) -> Prompt:
        return self.asked.prompt

    def leave_out(self, what: str, reason: str, detail: str = "") -> None:
        self.left_out.append(LeftOut(self.prompt.id, what, reason, detail))

    def lack(self, what: str, problem: UnusableImage) -> None:
        """Note that an image cannot be used. If its file is missing or broken, the next build looks again."""
        listed = self.left_out if problem.is_whole else self.missing
        listed.append(LeftOut(self.prompt.id, what, problem.reason, problem.detail))


@dataclass(frozen=True)
class Steps:
    """The steps that ask teacher and judge. Each takes a candidate and adds to it."""

    recipe: DataRecipe
    teacher: Service
    judge: DataJudge

    def reflect(self, one: Candidate) -> None:
        """Ask the judge about the first image, and the teacher for the plan and the reflection on it. If the improved
        image exists already, the teacher sees it too."""
        if one.first is None:
            return
        with_waiting(one, FIRST, self._judge_first)
        if one.plan is None:
            with_waiting(one, PLAN, self._write_plan)
        if "shows" in one.scores and one.plan is not None:
            with_waiting(one, REFLECTION, self._write_reflection)

    def compare(self, one: Candidate) -> None:
        """Ask the judge about the improved image, and the teacher for the thinking that leads to the good image."""
        if one.improved is not None and self.asks_for_change(one):
            with_waiting(one, IMPROVED, self._judge_improved)
        if self.good_image(one) is not None and not one.waiting:
            with_waiting(one, THINKING, self._write_thinking)

    def asks_for_change(self, one: Candidate) -> bool:
        """Return whether there is a reflection that asks for a change of the first image."""
        return one.reflection is not None and not is_stop(one.reflection, self.recipe.teacher.stop_phrase)

    def good_image(self, one: Candidate) -> FoundImage | None:
        """Return the image that the initial modes may train on: the improved image if it was kept, otherwise the first
        one. None if the judge does not see the prompt in it."""
        image, score = (one.improved, "shows after") if one.is_kept else (one.first, "shows")
        return image if one.scores.get(score, -1.0) >= self.recipe.keep.shows_at_least else None

    def _judge_first(self, one: Candidate) -> None:
        assert one.first is not None, "the step begins with a first image"
        one.scores["shows"] = self.judge.shows(one.prompt, one.first)

    def _write_plan(self, one: Candidate) -> None:
        one.plan = self._write(one, WritingTask(PLAN, self.recipe.teacher.think_question))

    def _write_reflection(self, one: Candidate) -> None:
        assert one.first is not None, "the step begins with a first image"
        words = self.recipe.teacher
        if one.improved is None:
            task = WritingTask(REFLECTION, words.reflect_question, [one.first.png], is_reflection=True)
        else:
            pngs = [one.first.png, one.improved.png]
            task = WritingTask(REFLECTION, words.reflect_with_target_question, pngs, is_reflection=True)
        one.reflection = self._write(one, task, lambda text: self._untrue(one, text))

    def _untrue(self, one: Candidate, text: str) -> Flaw | None:
        """Return what the judge finds wrong with a reflection. If it says that nothing has to change, the image must
        show the prompt. Otherwise, what it says about the image must be true."""
        assert one.first is not None, "a reflection is about a first image"
        keep, words = self.recipe.keep, self.recipe.teacher
        one.scores.pop("true", None)  # it may be that of an earlier try
        if is_stop(text, words.stop_phrase):
            return None if one.scores["shows"] >= keep.shows_at_least else Flaw.OVERLOOKED
        one.scores["true"] = self.judge.true(one.prompt, one.first, seen_part(text, words.headings))
        return None if one.scores["true"] >= keep.true_at_least else Flaw.UNTRUE

    def _judge_improved(self, one: Candidate) -> None:
        assert one.first is not None and one.improved is not None and one.reflection is not None
        keep = self.recipe.keep
        if one.improved.digest == one.first.digest:
            one.leave_out(IMPROVED, "is the first image unchanged")
            return
        preference = self.judge.prefers(one.prompt, one.improved, one.first)
        one.scores |= {"prefers": preference.in_order, "prefers swapped": preference.swapped}
        if preference.first == 0.5:
            one.leave_out(IMPROVED, "preferred in one order only")
        elif preference.first < 0.5:
            one.leave_out(IMPROVED, "not preferred")
        elif keep.followed_at_least is not None and self._followed(one) < keep.followed_at_least:
            one.leave_out(IMPROVED, "does not make the changes of the reflection")
        else:
            one.scores["shows after"] = self.judge.shows(one.prompt, one.improved)
            one.is_kept = True

    def _followed(self, one: Candidate) -> float:
        assert one.first is not None and one.improved is not None and one.reflection is not None
        one.scores["followed"] = self.judge.followed(one.prompt, one.first, one.reflection, one.improved)
        return one.scores["followed"]

    def _write_thinking(self, one: Candidate) -> None:
        image = self.good_image(one)
        assert image is not None, "thinking is written for a good image"
        task = WritingTask(THINKING, self.recipe.teacher.think_of_image_question, [image.png])
        one.thinking = self._write(one, task)

    def _write(self, one: Candidate, task: WritingTask, check: TextCheck = lambda text: None) -> str | None:
        writing = write_text(self.teacher, self.recipe.teacher, task, one.prompt, check)
        one.writings.append(writing)
        if writing.text is None:
            one.leave_out(task.about, writing.flaws[-1])
        return writing.text


def with_waiting(one: Candidate, what: str, step: Callable[[Candidate], None]) -> None:
    """Run a step. If one of its questions fails, the candidate waits for `what`."""
    try:
        step(one)
    except QuestionFailed as failure:
        one.waiting.append(LeftOut(one.prompt.id, what, failure.reason, failure.detail))


def take_first(one: Candidate, read: Callable[[NumberedPrompt], FoundImage], owners: dict[str, str]) -> None:
    """Give a candidate its first image. `owners` maps the digest of every first image to its prompt: an image that
    belongs to another prompt already is left out."""
    try:
        image = read(one.asked)
    except UnusableImage as problem:
        one.lack(FIRST, problem)
        return
    owner = owners.setdefault(image.digest, one.prompt.id)
    if owner != one.prompt.id:
        one.leave_out(FIRST, "is the image of another prompt", owner)
        return
    one.first = image


def propose(one: Candidate, path: Path) -> None:
    """Give a candidate the improved image in a file, if the file is there and can be used."""
    try:
        one.improved = read_image(path)
    except UnusableImage as problem:
        one.lack(IMPROVED, problem)

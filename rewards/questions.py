"""What all judges are asked, whether they answer over HTTP (rewards/judge.py) or in this process (rewards/mllm.py).

A question is about an image and its prompt, about a reflection, or about an edit. (A reflection is a text about an
image, and an edit is the change from one image to the next.) It is answered with yes or no, or with a grade from 0 to
10. A choice asks which of two images fits a prompt better, "1" or "2". It is asked twice, once in each order of the
images.

The words of the questions are in rewards/templates, one file each. A file name ends with a version. The words of a
version never change: other words are a new version.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, require_pairs
from rewards.judge_answer import FIRST_OR_SECOND, YES_OR_NO, AnswerForm, Grade


def template(name: str) -> str:
    """Return the text of a file in rewards/templates, without the line end behind it. `name` is the name of the file
    with its version, such as image-yes-no.1."""
    path = Path(__file__).with_name("templates") / f"{name}.txt"
    return path.read_text(encoding="utf-8").removesuffix("\n")


YES_NO = template("image-yes-no.1")
WHICH = template("image-which.1")
IS_TRUE = template("reflection-yes-no.1")
"""Question about a reflection. The prompt is not part of it, so the judge has to look at the image. A question of your
own may contain {prompt}."""
IS_DONE = template("edit-yes-no.1")
AnswerKind = Literal["yes_no", "grade"]
"""How a judge answers: with yes or no, or with a grade from 0 to 10."""
QUESTIONS: dict[AnswerKind, tuple[str, str, str]] = {
    "yes_no": (YES_NO, IS_TRUE, IS_DONE),
    "grade": (template("image-grade.1"), template("reflection-grade.1"), template("edit-grade.1")),
}
"""The questions about an image, a reflection and an edit, for each kind of answer."""
FORMS: dict[AnswerKind, AnswerForm] = {"yes_no": YES_OR_NO, "grade": Grade()}
ImageQuestion = tuple[str, Sequence[Image]]
"""A question and the images that it is about."""


class QuestionScorer(ABC):
    """Turns questions about images into scores. A subclass asks them.

    `answer` says how the judge answers:
    * yes_no: with yes or no. The score is the probability of yes.
    * grade: with a whole number from 0 to 10. The score is the expected number, divided by 10.

    There are three questions: `question` is about an image, `reflection_question` about a reflection, and
    `edit_question` about an edit. In a question, {prompt} stands for the prompt and {reflection} for the text of the
    reflection. An empty question stands for the one in rewards/templates. Raises InputError if a question lacks what it
    is about.
    """

    def __init__(
        self, name: str, answer: AnswerKind, question: str, reflection_question: str, edit_question: str
    ) -> None:
        given = zip((question, reflection_question, edit_question), QUESTIONS[answer])
        question, reflection_question, edit_question = (own or usual for own, usual in given)
        if "{prompt}" not in question:
            raise InputError(f"the judge's question {question!r} lacks {{prompt}}: it would not know what to look for")
        for about in (reflection_question, edit_question):
            if "{reflection}" not in about:
                raise InputError(f"the judge's question {about!r} lacks {{reflection}}, the text that it is about")
        self.name, self.last_error, self.form = name, "", FORMS[answer]
        self.question, self.reflection_question, self.edit_question = question, reflection_question, edit_question

    @abstractmethod
    def answers(self, asked: list[ImageQuestion], form: AnswerForm) -> list[Score]:
        """Ask the questions. Return for each the score that `form` reads from the answer, or None if there is no usable
        answer."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        asked: list[ImageQuestion] = [(filled(self.question, p), (i,)) for i, p in zip(images, prompts, strict=True)]
        return self.answers(asked, self.form)

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score in [0, 1] per reflection. It says how true the judge finds the
        statements of the text `texts[i]` about `images[i]`."""
        require_pairs(images, prompts)
        asked: list[ImageQuestion] = [
            (filled(self.reflection_question, prompt, text), (image,))
            for image, prompt, text in zip(images, prompts, texts, strict=True)
        ]
        return self.answers(asked, self.form)

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """Return one score in [0, 1] per refined image. The reflection `texts[i]` asks for changes of `before[i]`. The
        score says how well `after[i]` makes these changes, and no others, in the eyes of the judge."""
        require_pairs(before, prompts)
        require_pairs(after, prompts)
        asked: list[ImageQuestion] = [
            (filled(self.edit_question, prompt, text), (first, second))
            for first, text, second, prompt in zip(before, texts, after, prompts, strict=True)
        ]
        return self.answers(asked, self.form)

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> list[Preference | None]:
        """Return one Preference per prompt: the probability that `first[i]` fits the prompt better than `second[i]`,
        asked in both orders of the images. The entry is None if one of the two questions failed."""
        require_pairs(first, prompts)
        require_pairs(second, prompts)
        asked: list[ImageQuestion] = []
        for prompt, a, b in zip(prompts, first, second, strict=True):
            asked += [(filled(WHICH, prompt), (a, b)), (filled(WHICH, prompt), (b, a))]
        found = self.answers(asked, FIRST_OR_SECOND)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [None if a is None or b is None else Preference(a, 1 - b) for a, b in pairs]


def filled(question: str, prompt: Prompt, reflection: str = "") -> str:
    """Return a question with {prompt} and {reflection} replaced, each only once, whatever the texts contain."""
    parts = {"prompt": prompt.text, "reflection": reflection}
    return re.sub(r"\{(prompt|reflection)\}", lambda found: parts[found[1]], question)

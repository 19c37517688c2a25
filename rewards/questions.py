"""What all judges are asked, whether they answer over HTTP (rewards/judge.py) or in this process (rewards/mllm.py).

There are two kinds of questions. A yes/no question is about an image and its prompt, about a reflection, or about an
edit. (A reflection is a text about an image, and an edit is the change from one image to the next.) A choice asks which
of two images fits a prompt better, "1" or "2". It is asked twice, once in each order of the images.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, require_pairs

YES_NO = 'Does this image show "{prompt}"? Answer yes or no.'
WHICH = 'Which image fits the description "{prompt}" better, 1 or 2? Answer 1 or 2.'
IS_TRUE = (
    'Here is a text about this image: "{reflection}" Is everything true that it says the image shows? '
    "Answer yes or no."
)
"""Question about a reflection. The prompt is not part of it, so the judge has to look at the image. A question of your
own may contain {prompt}."""
IS_DONE = (
    'The first image was changed into the second one as this text asks: "{reflection}" Were all the changes made, and '
    "nothing else? Answer yes or no."
)
AnswerWords = tuple[str, str]
"""The two possible answers to a question."""
ImageQuestion = tuple[str, Sequence[Image]]
"""A question and the images that it is about."""


class QuestionScorer(ABC):
    """Turns questions about images into scores. A subclass asks them.

    There are three yes/no questions: `question` is about an image, `reflection_question` about a reflection, and
    `edit_question` about an edit. In a question, {prompt} stands for the prompt and {reflection} for the text of the
    reflection. Raises InputError if a question lacks what it is about.
    """

    def __init__(self, name: str, question: str, reflection_question: str, edit_question: str) -> None:
        if "{prompt}" not in question:
            raise InputError(f"the judge's question {question!r} lacks {{prompt}}: it would not know what to look for")
        for about in (reflection_question, edit_question):
            if "{reflection}" not in about:
                raise InputError(f"the judge's question {about!r} lacks {{reflection}}, the text that it is about")
        self.name, self.last_error = name, ""
        self.question, self.reflection_question, self.edit_question = question, reflection_question, edit_question

    @abstractmethod
    def answers(self, asked: list[ImageQuestion], words: AnswerWords) -> list[Score]:
        """Ask the questions. Return for each the probability that the answer is words[0] and not words[1], or None if
        there is no usable answer."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return self._yes([(filled(self.question, p), (i,)) for i, p in zip(images, prompts, strict=True)])

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score in [0, 1] per reflection. It says how sure the judge is that all statements of the text
        `texts[i]` about `images[i]` are true."""
        require_pairs(images, prompts)
        return self._yes([
            (filled(self.reflection_question, prompt, text), (image,))
            for image, prompt, text in zip(images, prompts, texts, strict=True)
        ])  # fmt: skip

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """Return one score in [0, 1] per refined image. The reflection `texts[i]` asks for changes of `before[i]`. The
        score says how sure the judge is that `after[i]` makes these changes and no others."""
        require_pairs(before, prompts)
        require_pairs(after, prompts)
        return self._yes([
            (filled(self.edit_question, prompt, text), (first, second))
            for first, text, second, prompt in zip(before, texts, after, prompts, strict=True)
        ])  # fmt: skip

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> list[Preference | None]:
        """Return one Preference per prompt: the probability that `first[i]` fits the prompt better than `second[i]`,
        asked in both orders of the images. The entry is None if one of the two questions failed."""
        require_pairs(first, prompts)
        require_pairs(second, prompts)
        asked: list[ImageQuestion] = []
        for prompt, a, b in zip(prompts, first, second, strict=True):
            asked += [(filled(WHICH, prompt), (a, b)), (filled(WHICH, prompt), (b, a))]
        found = self.answers(asked, ("1", "2"))
        pairs = zip(found[::2], found[1::2], strict=True)
        return [None if a is None or b is None else Preference(a, 1 - b) for a, b in pairs]

    def _yes(self, asked: list[ImageQuestion]) -> list[Score]:
        return self.answers(asked, ("yes", "no"))


def filled(question: str, prompt: Prompt, reflection: str = "") -> str:
    """Return a question with {prompt} and {reflection} replaced, each only once, whatever the texts contain."""
    parts = {"prompt": prompt.text, "reflection": reflection}
    return re.sub(r"\{(prompt|reflection)\}", lambda found: parts[found[1]], question)

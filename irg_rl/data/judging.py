"""The judge of a data set: what it is asked about images and reflections, and the probabilities that it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from irg_rl.data.answers import Service
from irg_rl.data.sources import FoundImage
from irg_rl.data.texts import tagged
from irg_rl.suites.judging import fill
from irg_rl.trajectory import Prompt
from rewards.base import Preference
from rewards.judge_answer import probability
from rewards.questions import IS_DONE, IS_TRUE, WHICH, YES_NO

QUESTIONS = {"shows": YES_NO, "true": IS_TRUE, "followed": IS_DONE, "prefers": WHICH}
"""Name of a question -> its words, as in rewards/judge.py."""


@dataclass(frozen=True)
class DataJudge:
    """Asks the judge. Every method raises the errors of `Service.ask`."""

    service: Service

    def shows(self, prompt: Prompt, image: FoundImage) -> float:
        """Return the probability that the image shows the prompt."""
        return self._ask("shows", prompt, {"prompt": prompt.text}, (image,), ("yes", "no"))

    def true(self, prompt: Prompt, image: FoundImage, reflection: str) -> float:
        """Return the probability that everything is true which the reflection says about the image."""
        return self._ask("true", prompt, {"reflection": reflection}, (image,), ("yes", "no"))

    def followed(self, prompt: Prompt, first: FoundImage, reflection: str, second: FoundImage) -> float:
        """Return the probability that the second image makes the changes of the reflection and no others."""
        return self._ask("followed", prompt, {"reflection": tagged(reflection)}, (first, second), ("yes", "no"))

    def prefers(self, prompt: Prompt, second: FoundImage, first: FoundImage) -> Preference:
        """Return how strongly the judge prefers the second image to the first one, asked in both orders."""
        ask = partial(self._ask, "prefers", prompt, {"prompt": prompt.text}, words=("1", "2"))
        return Preference(in_order=ask((second, first)), swapped=1 - ask((first, second)))

    def _ask(
        self,
        about: str,
        prompt: Prompt,
        values: Mapping[str, str],
        images: Sequence[FoundImage],
        words: tuple[str, str],
    ) -> float:
        question = fill(QUESTIONS[about], values)
        pngs = [image.png for image in images]
        return self.service.ask(about, prompt.id, question, pngs, lambda completion: probability(completion, words))

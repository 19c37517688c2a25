"""A scorer that uses the verdicts (right or wrong, with a graded score) of the task itself. It works for every task
that can judge images without another scorer."""

from collections.abc import Mapping

from irg_rl.task import make_task
from irg_rl.trajectory import Prompt, Statement
from rewards.base import Image, Score, ScorerUnavailable, require_pairs


class VerifierScorer:
    """Scores images with the graded score of the task's verdict. If the task cannot judge an image, the score is None,
    which counts as a failure.

    `task`, `task_options`, `seed` and `image_size` (height, width) come from the recipe. `right` is a bonus for images
    with the verdict "right", added to their score. Without this bonus, an image with one small defect has nearly the
    same score as a right image. `graded` is the weight of the graded score: with `graded` 0 and `right` 1, the score is
    1 for a right image and 0 for any other, so its mean is the accuracy.
    """

    def __init__(
        self,
        task: str,
        task_options: Mapping[str, object],
        seed: int = 0,
        image_size: tuple[int, int] = (0, 0),
        name: str = "verifier",
        right: float = 0.0,
        graded: float = 1.0,
    ) -> None:
        self.name = name
        self.last_error = ""
        self.right, self.graded = right, graded
        self.task = make_task(task, task_options, seed, image_size)
        if self.task.verdict_scorer is not None:
            raise ScorerUnavailable(
                f"the task {task} takes its verdicts from the scorer {self.task.verdict_scorer!r}: reward that one"
            )

    def check(self) -> None:
        """Do nothing, because this scorer needs nothing outside this process."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        verdicts = self.task.verdicts(images, prompts)
        self.last_error = self.task.last_error
        return [None if found is None else self.graded * found.score + self.right * found.correct for found in verdicts]

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score in [0, 1] per reflection. The score says how true the text `texts[i]` is about `images[i]`,
        in the judgement of the task. The score is None if the task cannot judge the text."""
        require_pairs(images, prompts)
        scores = [self.task.truth(*item) for item in zip(texts, images, prompts, strict=True)]
        return self._known(scores, "whether a reflection is true")

    def score_statements(
        self, images: list[Image], prompts: list[Prompt], texts: list[str]
    ) -> list[list[Statement] | None]:
        """Return the statements of each reflection, with a score in [0, 1] for each of them. The score says how true
        the statement is about the image, in the judgement of the task. An entry is None if the task cannot judge the
        text."""
        require_pairs(images, prompts)
        found = [self.task.statements(*item) for item in zip(texts, images, prompts, strict=True)]
        if None in found:
            self.last_error = "the task cannot know whether a statement is true"
        return found

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """Return one score in [0, 1] per refined image. The reflection `texts[i]` asks for changes of `before[i]`. The
        score says how well `after[i]` makes these changes, in the judgement of the task. The score is None if the task
        cannot judge the image."""
        require_pairs(before, prompts)
        scores = [self.task.following(*item) for item in zip(texts, before, after, prompts, strict=True)]
        return self._known(scores, "whether an edit was done")

    def _known(self, scores: list[Score], what: str) -> list[Score]:
        if None in scores:
            self.last_error = f"the task cannot know {what}"
        return scores

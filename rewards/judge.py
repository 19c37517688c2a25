"""A multimodal language model as a judge of images, at any endpoint with the OpenAI chat interface.

rewards/questions.py has the questions. Each is asked at temperature 0 and with token log-probabilities. The score of a
yes/no question is p(yes) / (p(yes) + p(no)) at the token of the answer, as in T2I-R1's ORM and UniRL. The score of a
grade is its expected value (see rewards/judge_answer.py). If the endpoint gives no log-probabilities, the score is that
of the first word of the answer: 1 or 0, or a whole grade.

Apart from settings such as the model's name, a request has only the question and the images. An answer in another form,
a timeout and a refused connection are failures (None), never numbers. If the same request is made again, the answer
comes from a cache.
"""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, ScorerUnavailable
from rewards.judge_answer import AnswerForm
from rewards.judge_client import JudgeClient, JudgeFailure, Question
from rewards.judge_connection import connect, with_connection
from rewards.questions import AnswerKind, ImageQuestion, QuestionScorer, filled

TESTED = Prompt("check", "a photo of a circle")
"""The prompt of the question with which `JudgeScorer.check` tests the judge."""


def to_png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pngs(images: Iterable[Image]) -> dict[int, bytes]:
    """Return a dict: `id` of an image -> its PNG file. An image that occurs several times is encoded once. Several are
    encoded at the same time, because a large one takes tenths of a second."""
    different = {id(image): image for image in images}
    with ThreadPoolExecutor() as pool:
        return dict(zip(different, pool.map(to_png, different.values()), strict=True))


@with_connection
class JudgeScorer(QuestionScorer):
    """Scores images with a judge. The score, in [0, 1], says how sure the judge is that the image shows the prompt, or
    how well it shows the prompt. `QuestionScorer` explains `answer` and the three questions, and `connect` in
    rewards/judge_connection.py explains all other settings."""

    def __init__(
        self,
        base_url: str,
        name: str = "judge",
        answer: AnswerKind = "yes_no",
        question: str = "",
        reflection_question: str = "",
        edit_question: str = "",
        **connection: Any,
    ) -> None:
        super().__init__(name, answer, question, reflection_question, edit_question)
        connection.setdefault("top_logprobs", self.form.alternatives)
        self.client = connect(base_url, **connection)

    def check(self) -> None:
        """Ask one question about a grey image. Raises ScorerUnavailable if no usable answer comes."""
        require_answer(self.client, filled(self.question, TESTED), self.form)

    def answers(self, asked: list[ImageQuestion], form: AnswerForm) -> list[Score]:
        pngs = to_pngs(image for _, images in asked for image in images)
        questions = [Question(text, tuple(pngs[id(image)] for image in images), form) for text, images in asked]
        scores: list[Score] = []
        for answer in self.client.ask_all(questions):
            if isinstance(answer, ScorerUnavailable):
                raise answer
            if isinstance(answer, JudgeFailure):
                self.last_error = str(answer)
            scores.append(None if isinstance(answer, JudgeFailure) else answer)
        return scores


def require_answer(client: JudgeClient, text: str, form: AnswerForm) -> None:
    """Ask a judge one question about a grey image. Raises ScorerUnavailable if no usable answer comes."""
    grey = to_png(np.full((64, 64, 3), 128, dtype=np.uint8))
    try:
        client.ask(Question(text, (grey,), form), is_remembered=False)
    except JudgeFailure as failure:
        raise ScorerUnavailable(f"{failure}. Start it, or correct base_url, and resume") from failure

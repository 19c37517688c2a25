"""A multimodal language model as a judge of images, at any endpoint with the OpenAI chat interface.

rewards/questions.py has the questions. Each is asked at temperature 0 and with token log-probabilities. The score of a
yes/no question is p(yes) / (p(yes) + p(no)) at the token of the answer, as in T2I-R1's ORM and UniRL (see
rewards/judge_answer.py). If the endpoint gives no log-probabilities, the score is 1 or 0, from the first word of the
answer.

Apart from settings such as the model's name, a request has only the question and the images. An answer in another form,
a timeout and a refused connection are failures (None), never numbers. If the same request is made again, the answer
comes from a cache.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, ScorerUnavailable
from rewards.endpoint import Endpoint
from rewards.judge_client import JudgeClient, JudgeFailure, Question
from rewards.questions import IS_DONE, IS_TRUE, YES_NO, AnswerWords, ImageQuestion, QuestionScorer, filled

GREY = Prompt("check", "a photo of a circle")
"""The prompt of the question with which `JudgeScorer.check` tests the judge."""
RESERVED = {"messages", "stream", "n"}
"""Fields of a request that a recipe may not set."""


def to_png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class JudgeScorer(QuestionScorer):
    """Scores images with a judge. The score, in [0, 1], says how sure the judge is that the image shows the prompt.

    `api_key_env` names the environment variable that holds the API key of the judge's server. The key itself is in no
    recipe, log or report. It is sent over https. It is sent over plain http only to this machine and to the host
    `key_over_http`. `timeout` limits one HTTP call with its whole answer, in seconds. The n-th retry waits `backoff *
    2**(n-1)` seconds, or longer if the server asks for it. `logprobs: false` means that no log-probabilities are
    requested. `extra_body` has more fields for the request (such as `chat_template_kwargs`), and `headers` has more
    HTTP headers.

    The three questions are explained at `QuestionScorer`.
    """

    def __init__(
        self,
        base_url: str,
        name: str = "judge",
        model: str = "judge",
        api_key_env: str = "",
        question: str = YES_NO,
        reflection_question: str = IS_TRUE,
        edit_question: str = IS_DONE,
        concurrency: int = 8,
        timeout: float = 30.0,
        retries: int = 2,
        backoff: float = 0.5,
        cache_size: int = 4096,
        max_tokens: int = 4,
        logprobs: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        key_over_http: str = "",
    ) -> None:
        super().__init__(name, question, reflection_question, edit_question)
        if not (concurrency >= 1 and retries >= 0 and 0 < timeout < math.inf and 0 <= backoff < math.inf):
            raise InputError(
                f"judge concurrency {concurrency}, retries {retries}, timeout {timeout}, backoff {backoff}: "
                "concurrency is at least 1, timeout above 0, the others at least 0, and all are finite"
            )
        if not (cache_size >= 0 and max_tokens >= 1):
            raise InputError(f"judge cache_size {cache_size}, max_tokens {max_tokens}: at least 0 and 1")
        if taken := RESERVED & set(extra_body or {}):
            raise InputError(f"judge extra_body: {', '.join(sorted(taken))} is the program's own to say")
        endpoint = Endpoint(base_url.rstrip("/") + "/chat/completions", timeout, api_key_env, headers, key_over_http)
        self.client = JudgeClient(
            endpoint, model, concurrency, retries, backoff, cache_size, max_tokens, logprobs, extra_body or {}
        )

    def check(self) -> None:
        """Ask one question about a grey image. Raises ScorerUnavailable if no usable answer comes."""
        grey = to_png(np.full((64, 64, 3), 128, dtype=np.uint8))
        try:
            self.client.ask(Question(filled(self.question, GREY), (grey,), ("yes", "no")))
        except JudgeFailure as failure:
            raise ScorerUnavailable(f"{failure}. Start it, or correct base_url, and resume") from failure

    def answers(self, asked: list[ImageQuestion], words: AnswerWords) -> list[Score]:
        questions = [Question(text, tuple(to_png(image) for image in images), words) for text, images in asked]
        return [self._value(answer) for answer in self.client.ask_all(questions)]

    def _value(self, answer: float | JudgeFailure | ScorerUnavailable) -> Score:
        if isinstance(answer, ScorerUnavailable):
            raise answer
        if isinstance(answer, JudgeFailure):
            self.last_error = str(answer)
            return None
        return answer

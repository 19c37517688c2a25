"""A multimodal language model as a judge of images, at any endpoint with the OpenAI chat interface.

There are two kinds of questions. Every question is asked at temperature 0 and with token log-probabilities:

* A yes/no question about an image and its prompt, about a reflection, or about an edit. (A reflection is a text about
  an image, and an edit is the change from one image to the next.) The score is p(yes) / (p(yes) + p(no)) at the token
  of the answer, as in T2I-R1's ORM and UniRL (see rewards/judge_answer.py). If the endpoint gives no log-probabilities,
  the score is 1 or 0, from the first word of the answer.
* A choice: which of two images fits better, "1" or "2"? The judge is asked twice, once in each order of the images.

Apart from settings such as the model's name, a request has only the question and the images. An answer in another form,
a timeout and a refused connection are failures (None), never numbers. If the same request is made again, the answer
comes from a cache.
"""

import io
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, ScorerUnavailable, require_pairs
from rewards.endpoint import Endpoint
from rewards.judge_client import JudgeClient, JudgeFailure, Question

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
GREY = Prompt("check", "a photo of a circle")
"""The prompt of the question with which `JudgeScorer.check` tests the judge."""
RESERVED = {"messages", "stream", "n"}
"""Fields of a request that a recipe may not set."""


def to_png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class JudgeScorer:
    """Scores images with a judge. The score, in [0, 1], says how sure the judge is that the image shows the prompt.

    `api_key_env` names the environment variable that holds the API key of the judge's server. The key itself is in no
    recipe, log or report. It is sent over https. It is sent over plain http only to this machine and to the host
    `key_over_http`. `timeout` limits one HTTP call with its whole answer, in seconds. The n-th retry waits `backoff *
    2**(n-1)` seconds, or longer if the server asks for it. `logprobs: false` means that no log-probabilities are
    requested. `extra_body` has more fields for the request (such as `chat_template_kwargs`), and `headers` has more
    HTTP headers.

    There are three questions: `question` is about an image, `reflection_question` about a reflection, and
    `edit_question` about an edit. (An edit is the change from one image to the next.) In a question, {prompt} stands
    for the prompt and {reflection} for the text of the reflection.
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
        if "{prompt}" not in question:
            raise InputError(f"the judge's question {question!r} lacks {{prompt}}: it would not know what to look for")
        for about in (reflection_question, edit_question):
            if "{reflection}" not in about:
                raise InputError(f"the judge's question {about!r} lacks {{reflection}}, the text that it is about")
        if not (concurrency >= 1 and retries >= 0 and 0 < timeout < math.inf and 0 <= backoff < math.inf):
            raise InputError(
                f"judge concurrency {concurrency}, retries {retries}, timeout {timeout}, backoff {backoff}: "
                "concurrency is at least 1, timeout above 0, the others at least 0, and all are finite"
            )
        if not (cache_size >= 0 and max_tokens >= 1):
            raise InputError(f"judge cache_size {cache_size}, max_tokens {max_tokens}: at least 0 and 1")
        if taken := RESERVED & set(extra_body or {}):
            raise InputError(f"judge extra_body: {', '.join(sorted(taken))} is the program's own to say")
        self.name = name
        self.last_error = ""
        self.question, self.reflection_question, self.edit_question = question, reflection_question, edit_question
        endpoint = Endpoint(base_url.rstrip("/") + "/chat/completions", timeout, api_key_env, headers, key_over_http)
        self.client = JudgeClient(
            endpoint, model, concurrency, retries, backoff, cache_size, max_tokens, logprobs, extra_body or {}
        )

    def check(self) -> None:
        """Ask one question about a grey image. Raises ScorerUnavailable if no usable answer comes."""
        grey = to_png(np.full((64, 64, 3), 128, dtype=np.uint8))
        try:
            self.client.ask(Question(self._filled(self.question, GREY), (grey,), ("yes", "no")))
        except JudgeFailure as failure:
            raise ScorerUnavailable(f"{failure}. Start it, or correct base_url, and resume") from failure

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return self._yes([(self._filled(self.question, p), (i,)) for i, p in zip(images, prompts, strict=True)])

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score in [0, 1] per reflection. It says how sure the judge is that all statements of the text
        `texts[i]` about `images[i]` are true."""
        require_pairs(images, prompts)
        return self._yes([
            (self._filled(self.reflection_question, prompt, text), (image,))
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
            (self._filled(self.edit_question, prompt, text), (first, second))
            for first, text, second, prompt in zip(before, texts, after, prompts, strict=True)
        ])  # fmt: skip

    def _yes(self, asked: list[tuple[str, tuple[Image, ...]]]) -> list[Score]:
        """Ask yes/no questions about images, and return the probability of "yes" for each."""
        questions = [Question(text, tuple(to_png(image) for image in images), ("yes", "no")) for text, images in asked]
        return [self._value(answer) for answer in self.client.ask_all(questions)]

    def _filled(self, question: str, prompt: Prompt, reflection: str = "") -> str:
        parts = {"prompt": prompt.text, "reflection": reflection}
        return re.sub(r"\{(prompt|reflection)\}", lambda found: parts[found[1]], question)

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> list[Preference | None]:
        """Return one Preference per prompt: the probability that `first[i]` fits the prompt better than `second[i]`, in
        the opinion of the judge. The judge is asked twice, once in each order of the images. The entry is None if one
        of the two questions failed."""
        require_pairs(first, prompts)
        require_pairs(second, prompts)
        questions = []
        for prompt, a, b in zip(prompts, first, second, strict=True):
            text, pngs = WHICH.replace("{prompt}", prompt.text), (to_png(a), to_png(b))
            questions += [Question(text, pngs, ("1", "2")), Question(text, pngs[::-1], ("1", "2"))]
        answers = [self._value(answer) for answer in self.client.ask_all(questions)]
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return [None if a is None or b is None else Preference(a, 1 - b) for a, b in pairs]

    def _value(self, answer: float | JudgeFailure | ScorerUnavailable) -> Score:
        if isinstance(answer, ScorerUnavailable):
            raise answer
        if isinstance(answer, JudgeFailure):
            self.last_error = str(answer)
            return None
        return answer

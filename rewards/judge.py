"""An MLLM as a judge, over any OpenAI-compatible chat endpoint.

Two questions are asked, both at temperature 0 with token log-probabilities:

* yes/no about one image: score = p(yes) / (p(yes) + p(no)) at the answer's token (the form of T2I-R1's ORM and UniRL;
  rewards/judge_answer.py); when the endpoint gives no log-probabilities, the answer's first word, 1 or 0;
* which of two images fits better, "1" or "2", asked in both orders.

A request contains only the model's name, the question and the images. An answer in another form, a timeout and a
refused connection are failures (None), never numbers. Equal requests are answered from a cache.
"""

import base64
import hashlib
import io
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.text_in import parse_json
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, ScorerUnavailable, require_pairs
from rewards.endpoint import SHOWN, Endpoint, NoAnswer, Reply
from rewards.judge_answer import Unanswered, probability

YES_NO = 'Does this image show "{prompt}"? Answer yes or no.'
WHICH = 'Which image fits the description "{prompt}" better, 1 or 2? Answer 1 or 2.'
RETRIED_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSED_STATUS = {401, 403, 404}
MISFIT_STATUS = {400, 422}
"""HTTP status codes that mean: the server does not know a field of the request or rejects its value."""
SPARED = {"logprobs": ("logprobs", "top_logprobs"), "temperature": ("temperature",)}
"""Fields of a request that can be left out -> all fields that are then left out together."""
LONGEST_PAUSE_S = 60.0
"""Longest accepted Retry-After in seconds. A longer one counts as a failure."""
RESERVED = {"messages", "stream", "n"}
"""Fields of a request that a recipe must not set."""
_log = logging.getLogger(__name__)


Fields = dict[str, Any]


class JudgeFailure(RuntimeError):
    """One question got no usable answer."""


@dataclass(frozen=True)
class Question:
    """A question: PNG files in order, and a text. The answer must start with one of two words."""

    text: str
    pngs: tuple[bytes, ...]
    words: tuple[str, str]  # the answer whose probability is the score, and the other answer

    def key(self, model: str) -> tuple[str, str, str]:
        """Cache key: (hash of the images, question, model)."""
        digest = hashlib.sha256()
        for png in self.pngs:
            digest.update(len(png).to_bytes(8, "little") + png)
        return digest.hexdigest(), self.text, model

    def content(self) -> list[Fields]:
        """The user message in the chat format: images as data URLs, then the text."""
        parts: list[Fields] = []
        for number, png in enumerate(self.pngs, start=1):
            if len(self.pngs) > 1:
                parts.append({"type": "text", "text": f"Image {number}:"})
            url = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
            parts.append({"type": "image_url", "image_url": {"url": url}})
        return [*parts, {"type": "text", "text": self.text}]


class JudgeClient:
    """Asks questions with bounded concurrency, a time limit per call, retries with backoff, and a bounded cache.

    A server that refuses a field of the request by name is asked again without it."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        concurrency: int,
        retries: int,
        backoff: float,
        cache_size: int,
        max_tokens: int,
        logprobs: bool,
        extra_body: Mapping[str, Any],
    ) -> None:
        self.endpoint, self.model = endpoint, model
        self.concurrency, self.retries, self.backoff = concurrency, retries, backoff
        self.cache_size = cache_size
        self.fields: Fields = {"model": model, "temperature": 0, "max_tokens": max_tokens}
        if logprobs:
            self.fields |= {"logprobs": True, "top_logprobs": 5}
        self.fields |= extra_body
        self.cache: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self.lock = threading.Lock()
        self.sent = 0  # number of requests sent, retries included

    def ask_all(self, questions: Sequence[Question]) -> list[float | JudgeFailure | ScorerUnavailable]:
        """One answer per question, in order. Failures are returned and not raised. Equal questions are asked once."""
        unique = {question.key(self.model): question for question in questions}
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            answers = dict(zip(unique, pool.map(self._ask_or_fail, unique.values()), strict=True))
        return [answers[question.key(self.model)] for question in questions]

    def _ask_or_fail(self, question: Question) -> float | JudgeFailure | ScorerUnavailable:
        try:
            return self.ask(question)
        except (JudgeFailure, ScorerUnavailable) as failure:
            return failure

    def ask(self, question: Question) -> float:
        """Probability in [0, 1] of the question's first word. Raises JudgeFailure after the last retry, and
        ScorerUnavailable if the endpoint will never answer (wrong key, path or model)."""
        key = question.key(self.model)
        with self.lock:
            if key in self.cache:
                self.cache.move_to_end(key)
                return self.cache[key]
        value = parse_answer(self._post(question), question.words)
        with self.lock:
            self.cache[key] = value
            while len(self.cache) > self.cache_size:
                self.cache.popitem(last=False)
        return value

    def chat(self, question: Question) -> object:
        """The whole chat completion, for callers that read the answer themselves. Fails as `ask` does; no cache."""
        reply = self._post(question)
        try:
            return parse_json(reply.text, "the answer", finite=False)
        except InputError as error:
            raise JudgeFailure(f"the judge: {redact_text(str(error))[:SHOWN]}: {reply.shown!r}") from None

    def _post(self, question: Question) -> Reply:
        """The server's answer with status 200."""
        message = {"messages": [{"role": "user", "content": question.content()}]}
        attempt, problem = 0, ""
        for attempt in range(self.retries + 1):
            pause = None
            try:
                reply = self._post_fitting(message)
            except NoAnswer as silence:
                problem = str(silence)
            else:
                if reply.status == 200:
                    return reply
                problem, pause = f"HTTP {reply.status}: {reply.shown}", reply.retry_after
                self._require_possible(reply, problem)
                if reply.status not in RETRIED_STATUS:
                    break
                if pause is not None and pause > LONGEST_PAUSE_S:
                    problem += f" (and asks to wait {pause:g} s)"
                    break
            if attempt < self.retries:
                time.sleep(max(self.backoff * 2**attempt, pause or 0.0))
        raise JudgeFailure(f"the judge at {self.endpoint.url} failed after {attempt + 1} calls: {problem}")

    def _post_fitting(self, message: Fields) -> Reply:
        """The server's answer. If the server rejects a field by name, the question is asked again without the field. If
        that works, the field is left out from then on."""
        fields, refusals = self.fields, list[str]()
        while True:
            with self.lock:
                self.sent += 1
            reply = self.endpoint.post(fields | message)
            fewer = without_refused(fields, reply.text) if reply.status in MISFIT_STATUS else None
            if fewer is None:
                break
            refusals.append(reply.shown)
            fields = fewer
        if refusals and reply.status == 200:
            self._remember(fields, refusals)
        return reply

    def _remember(self, fields: Fields, refusals: Sequence[str]) -> None:
        with self.lock:
            left_out = sorted(self.fields.keys() - fields.keys())
            self.fields = fields
        if left_out:
            dull = ": its scores are 1 or 0" if "logprobs" in left_out else ""
            words = (self.endpoint.url, ", ".join(left_out), dull, "; ".join(refusals))
            _log.warning("the judge at %s is asked without %s%s (%s)", *words)

    def _require_possible(self, reply: Reply, problem: str) -> None:
        url = self.endpoint.url
        if 300 <= reply.status < 400:
            target = redact_text(reply.location)[:SHOWN]
            raise ScorerUnavailable(f"the judge at {url} redirects to {target!r}: set base_url to where it is")
        if reply.status in REFUSED_STATUS:
            raise ScorerUnavailable(f"the judge at {url} refuses model {self.model!r} ({problem})")


def without_refused(fields: Fields, refusal: str) -> Fields | None:
    """The request without the field that an error message names. None if it names no field that can be left out."""
    if "max_completion_tokens" in refusal and "max_tokens" in fields:
        fewer = {name: value for name, value in fields.items() if name != "max_tokens"}
        return fewer | {"max_completion_tokens": fields["max_tokens"]}
    for named, spared in SPARED.items():
        if named in refusal and named in fields:
            return {name: value for name, value in fields.items() if name not in spared}
    return None


def parse_answer(reply: Reply, words: tuple[str, str]) -> float:
    """The probability in a chat completion. JudgeFailure if there is none."""
    try:
        return probability(parse_json(reply.text, "the answer", finite=False), words)
    except (InputError, Unanswered) as error:
        raise JudgeFailure(f"the judge: {redact_text(str(error))[:SHOWN]}: {reply.shown!r}") from None


def to_png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class JudgeScorer:
    """Score in [0, 1]: how sure the judge is that the image shows the prompt.

    `api_key_env` names an environment variable; the key itself is in no recipe, log or report. It travels over https,
    to this machine, or over plain http to the host `key_over_http`. `timeout` is seconds per HTTP call with the whole
    answer; the n-th retry waits `backoff * 2**(n-1)` seconds, or what the server asks for. `logprobs: false` asks for
    none; `extra_body` are further fields of the request (`chat_template_kwargs`), `headers` further headers."""

    def __init__(
        self,
        base_url: str,
        name: str = "judge",
        model: str = "judge",
        api_key_env: str = "",
        question: str = YES_NO,
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
        self.question = question
        endpoint = Endpoint(base_url.rstrip("/") + "/chat/completions", timeout, api_key_env, headers, key_over_http)
        self.client = JudgeClient(
            endpoint, model, concurrency, retries, backoff, cache_size, max_tokens, logprobs, extra_body or {}
        )

    def check(self) -> None:
        """Ask one question about a grey image; ScorerUnavailable unless a usable answer comes."""
        grey = to_png(np.full((64, 64, 3), 128, dtype=np.uint8))
        try:
            self.client.ask(Question(self.question.replace("{prompt}", "a photo of a circle"), (grey,), ("yes", "no")))
        except JudgeFailure as failure:
            raise ScorerUnavailable(f"{failure}. Start it, or correct base_url, and resume") from failure

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        questions = [
            Question(self.question.replace("{prompt}", prompt.text), (to_png(image),), ("yes", "no"))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return [self._value(answer) for answer in self.client.ask_all(questions)]

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> list[Preference | None]:
        """For each prompt, how `first[i]` compares with `second[i]`, asked in both orders; None if either failed."""
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

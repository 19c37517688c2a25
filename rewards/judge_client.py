"""The client of a judge. It sends questions as chat requests, and repeats failed requests. It leaves out request fields
that the server refuses. Answers are kept in a cache."""

import base64
import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.text_in import parse_json
from rewards.answer_cache import AnswerCache
from rewards.base import ScorerUnavailable
from rewards.breaker import Breaker
from rewards.endpoint import SHOWN, Endpoint, NoAnswer, Reply
from rewards.judge_answer import AnswerForm, Unanswered

RETRIED_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSED_STATUS = {401, 403, 404}
MISFIT_STATUS = {400, 422}
"""HTTP status codes for a request with a field that the server does not know, or with a value that it refuses."""
SPARED = {"logprobs": ("logprobs", "top_logprobs"), "temperature": ("temperature",)}
"""The fields of a request that can be left out. Each is mapped to the fields that are removed together if the server
refuses it."""
LONGEST_PAUSE_S = 60.0
"""Longest pause before a retry, in seconds. If a server asks for a longer one (Retry-After), the call has failed."""
FEW_ALTERNATIVES = 5
"""Number of alternatives per token that most servers send."""
Fields = dict[str, Any]
_log = logging.getLogger(__name__)


class JudgeFailure(RuntimeError):
    """Raised if a question got no usable answer."""


@dataclass(frozen=True)
class Question:
    """A question for the judge: a text, and the PNG files that the judge sees in this order. `form` is what the judge
    should answer with. It is None if the caller reads the answer itself (see `JudgeClient.chat`)."""

    text: str
    pngs: tuple[bytes, ...]
    form: AnswerForm | None = None

    def key(self, model: str) -> tuple[str, str, str]:
        """Return what identifies this question: (hash of the images, text of the question, name of the judge's
        model)."""
        digest = hashlib.sha256()
        for png in self.pngs:
            digest.update(len(png).to_bytes(8, "little") + png)
        return digest.hexdigest(), self.text, model

    def content(self) -> list[Fields]:
        """Return the user message in the chat format: the images as data URLs, then the text."""
        parts: list[Fields] = []
        for number, png in enumerate(self.pngs, start=1):
            if len(self.pngs) > 1:
                parts.append({"type": "text", "text": f"Image {number}:"})
            url = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
            parts.append({"type": "image_url", "image_url": {"url": url}})
        return [*parts, {"type": "text", "text": self.text}]


@dataclass(frozen=True)
class Patience:
    """How often a failed call is repeated, and how long the client waits.

    The n-th of `retries` repetitions waits backoff * 2**(n-1) seconds, or as long as the server asks for. This pause is
    then made longer by a random share of at most `jitter`, so that many questions do not come back at the same moment.
    """

    retries: int
    backoff: float
    jitter: float

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return the seconds to wait after call number `attempt` (from 0). `asked` is what the server asks for."""
        share = random.SystemRandom().random()  # no draw from the seeded numbers of the process
        return max(self.backoff * 2**attempt, asked or 0.0) * (1 + self.jitter * share)


class JudgeClient:
    """Asks questions of a judge. The number of calls at the same time and the time of each call are limited. Failed
    calls are retried after growing pauses. If the judge seems to be dead, it is left in peace for a while
    (rewards/breaker.py). Answers are kept in a cache (rewards/answer_cache.py).

    If a server refuses a field of the request by name, the question is asked again without this field.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        concurrency: int,
        patience: Patience,
        breaker: Breaker,
        cache: AnswerCache,
        fields: Fields,
    ) -> None:
        """`fields` are the fields of a request, without its messages."""
        self.endpoint, self.model, self.fields = endpoint, model, fields
        self.concurrency, self.patience, self.breaker, self.cache = concurrency, patience, breaker, cache
        self.lock = threading.Lock()
        self.sent = 0  # number of requests that were sent, with retries

    def ask_all(self, questions: Sequence[Question]) -> list[float | JudgeFailure | ScorerUnavailable]:
        """Ask several questions. Equal questions are asked only once. Return one entry per question, in order. The
        entry is the score that the form of the question reads from the answer. If the question failed, the entry is the
        error instead; this error is not raised."""
        unique = list(dict.fromkeys(questions))
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            answers = dict(zip(unique, pool.map(self._ask_or_fail, unique), strict=True))
        return [answers[question] for question in questions]

    def _ask_or_fail(self, question: Question) -> float | JudgeFailure | ScorerUnavailable:
        try:
            return self.ask(question)
        except (JudgeFailure, ScorerUnavailable) as failure:
            return failure

    def ask(self, question: Question, is_remembered: bool = True) -> float:
        """Return the score of the judge's answer, in [0, 1]. The form of the question reads it. If the question was
        answered before, the answer comes from the cache, unless `is_remembered` is False. Raises JudgeFailure if
        there is no usable answer after the last retry. Raises ScorerUnavailable if no retry can help, because the
        endpoint refuses the key, the path or the model."""
        assert question.form is not None, "a question without a form is for chat"
        known = self.cache.get(self._key(question)) if is_remembered else None
        if known is not None:
            return known
        value = parse_answer(self._post(question), question.form)
        self.cache.put(self._key(question), value, question.text)  # the fields of the request may have changed
        return value

    def _key(self, question: Question) -> str:
        """Return the name of an answer in the cache. It stands for everything that the answer depends on: the images,
        the text of the question (which has the prompt and the words of the template), the model, the form of the
        answer, and the other fields of the request."""
        about = [*question.key(self.model), repr(question.form), self.fields]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def chat(self, question: Question) -> object:
        """Send the question to the judge, and return the whole chat completion. This is for callers that read the
        answer themselves. The cache is not used. Raises the same errors as `ask`."""
        reply = self._post(question)
        try:
            return parse_json(reply.text, "the answer", finite=False)
        except InputError as error:
            raise JudgeFailure(f"the judge: {redact_text(str(error))[:SHOWN]}: {reply.shown!r}") from None

    def _post(self, question: Question) -> Reply:
        """Send a question, with retries, and return the server's reply with status 200. Raises JudgeFailure or
        ScorerUnavailable if there is no such reply."""
        if refusal := self.breaker.wait():
            raise JudgeFailure(f"the judge at {self.endpoint.url} is not asked: {refusal}")
        message = {"messages": [{"role": "user", "content": question.content()}]}
        attempt, problem, is_alive = 0, "", False
        for attempt in range(self.patience.retries + 1):
            pause = None
            try:
                reply = self._post_fitting(message)
            except NoAnswer as silence:
                problem = str(silence)
            else:
                if reply.status == 200:
                    self.breaker.answered()
                    return reply
                problem, pause = f"HTTP {reply.status}: {reply.shown}", reply.retry_after
                self._require_possible(reply, problem)
                if reply.status not in RETRIED_STATUS:
                    is_alive = True
                    break
                if pause is not None and pause > LONGEST_PAUSE_S:
                    problem += f" (and asks to wait {pause:g} s)"
                    break
            if attempt < self.patience.retries:
                time.sleep(self.patience.pause(attempt, pause))
        self.breaker.answered() if is_alive else self.breaker.failed(problem)
        raise JudgeFailure(f"the judge at {self.endpoint.url} failed after {attempt + 1} calls: {problem}")

    def _post_fitting(self, message: Fields) -> Reply:
        """Send a request and return the server's reply. If the server names a field that it refuses, the request is
        sent again at once without this field. If the second request succeeds, all later requests leave the field out.
        """
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
            dull = ": its scores are 1 or 0, or whole grades" if "logprobs" in left_out else ""
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
    """Return the fields of the request without the field that the server's error message `refusal` names. Returns None
    if the message names no field that can be left out. `max_tokens` is not left out, but it is renamed if the server
    asks for `max_completion_tokens`. If the server names `top_logprobs`, fewer of them are asked for first."""
    if "max_completion_tokens" in refusal and "max_tokens" in fields:
        fewer = {name: value for name, value in fields.items() if name != "max_tokens"}
        return fewer | {"max_completion_tokens": fields["max_tokens"]}
    if "top_logprobs" in refusal and fields.get("top_logprobs", 0) > FEW_ALTERNATIVES:
        return fields | {"top_logprobs": FEW_ALTERNATIVES}
    for named, spared in SPARED.items():
        if named in refusal and named in fields:
            return {name: value for name, value in fields.items() if name not in spared}
    return None


def parse_answer(reply: Reply, form: AnswerForm) -> float:
    """Return the score, in [0, 1], that `form` reads from the judge's answer. `reply` contains the chat completion of
    the judge. Raises JudgeFailure if this completion has no usable answer."""
    try:
        return form.read(parse_json(reply.text, "the answer", finite=False))
    except (InputError, Unanswered) as error:
        raise JudgeFailure(f"the judge: {redact_text(str(error))[:SHOWN]}: {reply.shown!r}") from None

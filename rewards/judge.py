"""An MLLM as a judge, over any OpenAI-compatible chat endpoint.

Two questions are asked, both at temperature 0 with token log-probabilities:

* yes/no about one image: score = p(yes) / (p(yes) + p(no)) over the first answer token's alternatives (the form of
  T2I-R1's ORM and UniRL); when the endpoint gives no log-probabilities, the answer's first word, 1 or 0;
* which of two images fits better, "1" or "2", asked in both orders.

A request carries what any judge would get: the model's name, the question and the image. An answer that is neither
form, a timeout and a refused connection are failures (None), never numbers. Equal requests are answered from a cache.
"""

import base64
import hashlib
import io
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Preference, Score, ScorerUnavailable, require_pairs

YES_NO = 'Does this image show "{prompt}"? Answer yes or no.'
WHICH = 'Which image fits the description "{prompt}" better, 1 or 2? Answer 1 or 2.'
RETRIED_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSED_STATUS = {401, 403, 404}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class JudgeFailure(RuntimeError):
    """One question got no usable answer."""


@dataclass(frozen=True)
class Question:
    """What is asked: PNG files, in order, and a text whose answer starts with one of two words."""

    text: str
    pngs: tuple[bytes, ...]
    words: tuple[str, str]  # the answer that counts towards the score, and the other one; fixed by the text

    def key(self, model: str) -> tuple[str, str, str]:
        """Cache key: (hash of the images, question, model)."""
        digest = hashlib.sha256()
        for png in self.pngs:
            digest.update(len(png).to_bytes(8, "little") + png)
        return digest.hexdigest(), self.text, model

    def content(self) -> list[dict]:
        """The user message in the chat format: images as data URLs, then the text."""
        parts: list[dict] = []
        for number, png in enumerate(self.pngs, start=1):
            if len(self.pngs) > 1:
                parts.append({"type": "text", "text": f"Image {number}:"})
            url = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
            parts.append({"type": "image_url", "image_url": {"url": url}})
        return [*parts, {"type": "text", "text": self.text}]


class JudgeClient:
    """Asks questions with bounded concurrency, a time limit per call, retries with backoff, and a bounded cache."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str,
        concurrency: int,
        timeout: float,
        retries: int,
        backoff: float,
        cache_size: int,
        max_tokens: int,
    ) -> None:
        try:
            address = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise InputError(f"the judge's base_url is no address ({error})") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise InputError(f"judge base_url {base_url!r}: give one such as http://host:8000/v1")
        if address.userinfo or address.query:
            raise InputError(f"the judge's base_url on {address.host} holds a secret: put the key into api_key_env")
        if concurrency < 1 or retries < 0 or timeout <= 0 or cache_size < 0:
            raise InputError(
                f"judge concurrency {concurrency}, retries {retries}, timeout {timeout}, cache_size {cache_size}: "
                "concurrency is at least 1, timeout above 0, the others at least 0"
            )
        headers = {}
        if api_key_env:
            if not os.environ.get(api_key_env):
                raise ScorerUnavailable(f"the judge's key is read from ${api_key_env}, which is not set: export it")
            headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.concurrency, self.retries, self.backoff = concurrency, retries, backoff
        self.cache_size, self.max_tokens = cache_size, max_tokens
        # A proxy from the environment would not find a judge on this machine.
        self.http = httpx.Client(headers=headers, timeout=timeout, trust_env=address.host not in LOOPBACK)
        self.cache: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self.lock = threading.Lock()
        self.sent = 0  # requests that left, retries included

    def ask_all(self, questions: Sequence[Question]) -> list[float | JudgeFailure | ScorerUnavailable]:
        """One answer per question, in order; a failure is returned, not raised. Equal questions are asked once."""
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
        ScorerUnavailable when the endpoint refuses on principle (key, path, model)."""
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
        return self._post(question)

    def _post(self, question: Question) -> object:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.content()}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "logprobs": True,
            "top_logprobs": 5,
        }
        for attempt in range(self.retries + 1):
            with self.lock:
                self.sent += 1
            try:
                response = self.http.post(self.url, json=body)
            except httpx.TimeoutException:
                problem = f"no answer within {self.http.timeout.read:g} s"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return decode(response)
                problem = f"HTTP {response.status_code}: {response.text[:200]}"
                if response.status_code in REFUSED_STATUS:
                    raise ScorerUnavailable(f"the judge at {self.url} refuses model {self.model!r} ({problem})")
                if response.status_code not in RETRIED_STATUS:
                    break
            if attempt < self.retries:
                time.sleep(self.backoff * 2**attempt)
        raise JudgeFailure(f"the judge at {self.url} failed after {attempt + 1} calls: {problem}")


def decode(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError as error:
        raise JudgeFailure(f"the judge's answer is not JSON: {response.text[:200]!r}") from error


def parse_answer(answer: object, words: tuple[str, str]) -> float:
    """p(words[0]) / (p(words[0]) + p(words[1])) of a chat completion; its first word where no log-probabilities came.

    Spellings of one word ("Yes", " yes") are added up. Raises JudgeFailure if neither word is to be found."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        mass = dict.fromkeys(words, 0.0)
        for alternative in tokens[0]["top_logprobs"] if tokens else []:
            word = alternative["token"].strip().strip(".,!\"'").lower()
            if word in mass:
                mass[word] += math.exp(min(float(alternative["logprob"]), 0.0))
        if sum(mass.values()) > 0:
            return mass[words[0]] / sum(mass.values())
        first = text.split()[0].strip(".,!:;\"'*").lower() if text.split() else ""
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise JudgeFailure(f"the judge's answer is no chat completion: {str(answer)[:200]}") from error
    if first not in words:
        raise JudgeFailure(f"the judge answered {text[:200]!r} where {words[0]!r} or {words[1]!r} was asked for")
    return 1.0 if first == words[0] else 0.0


def to_png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class JudgeScorer:
    """Score in [0, 1]: how sure the judge is that the image shows the prompt.

    `api_key_env` names an environment variable; the key itself is in no recipe, log or report. `timeout` is seconds
    per HTTP call; the n-th retry waits `backoff * 2**(n-1)` seconds."""

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
    ) -> None:
        if "{prompt}" not in question:
            raise InputError(f"the judge's question {question!r} lacks {{prompt}}: it would not know what to look for")
        self.name = name
        self.last_error = ""
        self.question = question
        self.client = JudgeClient(
            base_url, model, api_key_env, concurrency, timeout, retries, backoff, cache_size, max_tokens
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

"""A scorer that runs elsewhere: in a Python environment of its own, or on another machine. `irg-rl reward serve` serves
it over HTTP (see rewards/score_server.py)."""

import base64
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.text_in import parse_json
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, ScorerUnavailable, require_pairs
from rewards.endpoint import SHOWN, Endpoint, NoAnswer
from rewards.judge import to_pngs
from rewards.judge_client import LONGEST_PAUSE_S, RETRIED_STATUS
from rewards.score_server import CANNOT, CHECK

NEVER_STATUS = {301, 302, 303, 307, 308, 400, 401, 403, 404, CANNOT}
"""HTTP status codes after which no call can succeed."""
REQUEST_PIXELS = 12_000_000
"""Largest number of pixels in one request. As PNG and base64 they are at most 48 MB, also for noise."""
Answered = list[tuple[Score, str]]
"""One pair (score, error) per item. The score is None if it failed, and then the error says why."""


class RemoteScorer:
    """Asks a scorer that `irg-rl reward serve` serves, about images, reflections or edits.

    `base_url` is the address that the server has printed, such as http://127.0.0.1:8100/v1. `of` is the form that a run
    uses: image, reflection or edit. `check` asks the server for this form. If it is empty, any form will do.
    `api_key_env` names the
    environment variable that holds the server's token. As with a judge, the token is sent over plain http only to this
    machine and to the host `key_over_http`. At most `batch_size` items travel in one request, and `concurrency`
    requests at the same time. `timeout` limits one request with its whole answer, in seconds. The n-th retry waits
    `backoff * 2**(n-1)` seconds, or longer if the server asks for it.
    """

    def __init__(
        self,
        base_url: str,
        name: str = "remote",
        api_key_env: str = "",
        batch_size: Annotated[int, Field(ge=1)] = 16,
        concurrency: Annotated[int, Field(ge=1)] = 2,
        timeout: Annotated[float, Field(gt=0)] = 120.0,
        retries: Annotated[int, Field(ge=0)] = 2,
        backoff: Annotated[float, Field(ge=0)] = 0.5,
        key_over_http: str = "",
        of: Literal["", "image", "reflection", "edit"] = "",
    ) -> None:
        self.name, self.of, self.last_error = name, of, ""
        self.batch_size, self.concurrency, self.retries, self.backoff = batch_size, concurrency, retries, backoff
        url = base_url.rstrip("/") + "/score"
        self.endpoint = Endpoint(url, timeout, api_key_env, key_over_http=key_over_http)

    def check(self) -> None:
        """Ask the server for its forms. Raises ScorerUnavailable if it does not answer, refuses the token, or does not
        serve the form `of`."""
        forms: list[str] = []

        def read(content: Any) -> Answered:
            forms.extend(parse_forms(content))
            return [(0.0, "")]

        [(_, error)] = self._ask({"form": CHECK, "prompts": []}, 1, read)
        if error:
            raise ScorerUnavailable(f"{error}. Start it with `irg-rl reward serve`, or correct base_url")
        if self.of and self.of not in forms:
            raise ScorerUnavailable(
                f"the server at {self.endpoint.url} scores {', '.join(forms) or 'nothing'}, not {self.of}: "
                "serve another scorer, or correct `of`"
            )

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return self._scores("image", prompts, _pixels(images), images=_urls(images))

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        require_pairs(images, prompts)
        return self._scores("reflection", prompts, _pixels(images), images=_urls(images), texts=texts)

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        require_pairs(before, prompts)
        require_pairs(after, prompts)
        pixels = [a + b for a, b in zip(_pixels(before), _pixels(after))]
        return self._scores("edit", prompts, pixels, images=_urls(before), texts=texts, after=_urls(after))

    def _scores(self, form: str, prompts: list[Prompt], pixels: list[int], **columns: list[str]) -> list[Score]:
        places = batches(pixels, self.batch_size)
        bodies = [
            {"form": form, "prompts": [asdict(prompt) for prompt in prompts[place]]}
            | {name: column[place] for name, column in columns.items()}
            for place in places
        ]
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            parts = pool.map(lambda body: self._ask(body, len(body["prompts"]), parse_scores), bodies)
            answers = [answer for part in parts for answer in part]
        self.last_error = next((error for _, error in reversed(answers) if error), self.last_error)
        return [score for score, _ in answers]

    def _ask(self, body: dict[str, Any], count: int, read: Callable[[Any], Answered]) -> Answered:
        """Send one request, with retries, and return its `count` answers. `read` reads the server's answer. Raises
        ScorerUnavailable if no retry can help."""
        attempt, problem = 0, ""
        for attempt in range(self.retries + 1):
            pause = None
            try:
                reply = self.endpoint.post(body)
            except NoAnswer as silence:
                problem = str(silence)
            else:
                problem, pause = f"HTTP {reply.status}: {reply.shown}", reply.retry_after
                if reply.status == 200:
                    try:
                        found = read(parse_json(reply.text, "the answer"))
                        if len(found) != count:
                            raise InputError(f"the answer: {len(found)} scores for {count} items")
                        return found
                    except InputError as error:
                        problem = f"{redact_text(str(error))[:SHOWN]}: {reply.shown!r}"
                        break
                if reply.status in NEVER_STATUS:
                    raise ScorerUnavailable(f"the server at {self.endpoint.url} refuses: {problem}")
                if reply.status not in RETRIED_STATUS or (pause or 0.0) > LONGEST_PAUSE_S:
                    break
            if attempt < self.retries:
                time.sleep(max(self.backoff * 2**attempt, pause or 0.0))
        return [(None, f"the server at {self.endpoint.url} failed after {attempt + 1} calls: {problem}")] * count


def batches(pixels: Sequence[int], most: int) -> list[slice]:
    """Return the places of items that travel in one request: at most `most` of them, with at most REQUEST_PIXELS pixels
    together. `pixels` has the number of pixels of each item. A larger item travels alone."""
    found, start, total = list[slice](), 0, 0
    for place, size in enumerate(pixels):
        if place > start and (place - start == most or total + size > REQUEST_PIXELS):
            found.append(slice(start, place))
            start, total = place, 0
        total += size
    return [*found, slice(start, len(pixels))] if pixels else []


def parse_forms(content: Any) -> list[str]:
    """Read the forms in the answer to a check. Raises InputError if the answer has another form."""
    forms = content.get("forms") if isinstance(content, dict) else None
    if not isinstance(forms, list) or not all(isinstance(form, str) for form in forms):
        raise InputError("the answer: needs a list of texts, `forms`")
    return [redact_text(form)[:SHOWN] for form in forms]


def parse_scores(content: Any) -> Answered:
    """Read an answer of the server: one finite number or null per item, and for each null a reason. Raises InputError
    if the answer has another form."""
    scores = content.get("scores") if isinstance(content, dict) else None
    errors = content.get("errors") if isinstance(content, dict) else None
    if not isinstance(scores, list) or not isinstance(errors, list) or len(scores) != len(errors):
        raise InputError("the answer: needs two lists of equal length, `scores` and `errors`")
    return [_answer(score, error) for score, error in zip(scores, errors)]


def _answer(score: Any, error: Any) -> tuple[Score, str]:
    if score is None:
        return None, redact_text(error)[:SHOWN] if isinstance(error, str) and error else "the server gave no reason"
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(f"the answer: the score {score!r:.40} is not a finite number")
    return float(score), ""


def _urls(images: Sequence[Image]) -> list[str]:
    pngs = to_pngs(images)
    return ["data:image/png;base64," + base64.b64encode(pngs[id(image)]).decode("ascii") for image in images]


def _pixels(images: Sequence[Image]) -> list[int]:
    return [image.shape[0] * image.shape[1] for image in images]

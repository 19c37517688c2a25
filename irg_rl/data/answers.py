"""Asks teacher, judge and editor, and remembers their answers.

Every answer is added to a log as soon as it arrives. A question that was answered before is not asked again, so an
interrupted build continues without extra cost. A question that failed is logged too, and the next build asks it again.
A failure never becomes an answer.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irg_rl.config.data import BudgetRecipe, JudgeRecipe, ServiceRecipe
from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.text_in import parse_json
from rewards.judge_answer import Unanswered
from rewards.judge_client import JudgeClient, JudgeFailure, Question
from rewards.judge_connection import connect

GIVE_UP = 32
"""If this many questions to one service have failed and none was ever answered, the build ends with an error."""
BACKOFF_S = 0.5
LONGEST_REASON = 500
"""Number of characters of a failure that are kept."""


class QuestionFailed(Exception):
    """Raised if a question got no usable answer, or is not asked because the budget is spent. `reason` is one of few
    texts, and `detail` quotes the failure."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class BudgetSpent(QuestionFailed):
    """Raised instead of asking a question for which the budget has nothing left."""


@dataclass
class AnswerLog:
    """The log of all answers: one JSON object per line, added as soon as it is known.

    An entry has the key of its question, who was asked (teacher, judge or editor), what about (such as `reflection`),
    the id of the prompt, the answer or the failure, and the tokens that the server counted (null: it did not say). Only
    the places of the answers are kept in memory, because a large data set has gigabytes of them.
    """

    path: Path
    places: dict[str, int] = field(default_factory=dict)
    """Key of an answered question -> where its line begins in the file, in bytes."""
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    """Who was asked -> calls, failed calls, tokens, and calls without a count of tokens."""

    def __post_init__(self) -> None:
        """Read an existing log. If its last line was cut off when a build was killed, the line is removed. Raises
        InputError if the file is no log."""
        if not self.path.exists():
            return
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(parse_json(line, str(self.path)), place)
                except (InputError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{self.path} is no log of `irg-rl data build` ({error}, at byte {place}): move it away"
                    ) from error
                place += len(line)
        os.truncate(self.path, place)

    def add(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            place = file.seek(0, os.SEEK_END)
            file.write(json.dumps(entry).encode() + b"\n")
        self._take(entry, place)

    def _take(self, entry: dict[str, Any], place: int) -> None:
        counted = self.counted.setdefault(entry["who"], dict.fromkeys(("calls", "failed", "tokens", "uncounted"), 0))
        counted["calls"] += 1
        counted["failed"] += bool(entry["failure"])
        counted["tokens"] += entry["tokens"] or 0
        counted["uncounted"] += entry["tokens"] is None and not entry["failure"]
        if not entry["failure"]:
            self.places[entry["key"]] = place

    def answer(self, key: str) -> Any:
        """Return the answer to a question that was answered before. Raises KeyError if it was not."""
        with self.path.open("rb") as file:
            file.seek(self.places[key])
            return parse_json(file.readline(), str(self.path))["answer"]

    def total(self, name: str) -> int:
        """Return the sum of one count over everybody who was asked."""
        return sum(counted[name] for counted in self.counted.values())


@dataclass
class Budget:
    """Watches what the whole folder has cost, and writes the log. Several threads may use it at the same time.
    `open_calls` counts the questions that are under way."""

    limits: BudgetRecipe
    log: AnswerLog
    open_calls: int = 0
    spent: str = ""
    """Says which limit was reached, and how to continue. Empty: none."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Take one call from the budget. Raises BudgetSpent if there is none left."""
        with self.lock:
            calls = self.log.total("calls") + self.open_calls
            for name, used in (("calls", calls), ("tokens", self.log.total("tokens"))):
                limit = getattr(self.limits, name)
                if limit is not None and used >= limit:
                    self.spent = f"budget.{name}={limit} is spent; raise it and run the command again"
                    raise BudgetSpent("budget is spent", f"budget.{name}={limit}")
            self.open_calls += 1

    def end(self, entry: dict[str, Any] | None) -> None:
        """End a call, and add its entry to the log. None: the call ends the build, and nothing is logged."""
        with self.lock:
            self.open_calls -= 1
            if entry is not None:
                self.log.add(entry)


class Service:
    """The teacher, the judge or the editor. `who` is its name in the log."""

    def __init__(self, who: str, settings: ServiceRecipe, base_url: str, log: AnswerLog, budget: Budget) -> None:
        self.who, self.settings, self.log, self.budget = who, settings, log, budget
        self.client = _client(settings, base_url)
        self._failed = 0

    def ask(
        self,
        about: str,
        prompt_id: str,
        text: str,
        pngs: Sequence[bytes],
        read: Callable[[Any], Any],
        is_remembered: bool = True,
    ) -> Any:
        """Return the answer to a question. If the question was answered before, the answer comes from the log, unless
        `is_remembered` is False.

        about: what the question is about, for the log.
        text, pngs: the question and its images.
        read: turns a chat completion into the answer, as JSON data. It raises Unanswered if there is none.

        Raises QuestionFailed if there is no usable answer, ScorerUnavailable if the server refuses every question, and
        InputError if the first GIVE_UP questions all failed.
        """
        question = Question(text, tuple(pngs))
        key = self._key(question)
        if is_remembered and key in self.log.places:
            return self.log.answer(key)
        self.budget.begin()
        try:
            entry = self._entry(question, read) | {"key": key, "about": about, "prompt": prompt_id}
        except BaseException:
            self.budget.end(None)
            raise
        self.budget.end(entry)
        if entry["failure"]:
            self._count_failure(entry["failure"])
            raise QuestionFailed(f"no answer of the {self.who}", entry["failure"])
        return entry["answer"]

    def _entry(self, question: Question, read: Callable[[Any], Any]) -> dict[str, Any]:
        """Ask the question, and return what the log says about the answer or the failure."""
        entry: dict[str, Any] = {"who": self.who, "answer": None, "failure": "", "tokens": None}
        try:
            completion = self.client.chat(question)
            entry["tokens"] = self._tokens(completion)
            entry["answer"] = read(completion)
        except (JudgeFailure, Unanswered) as failure:
            reason = redact_text(str(failure)).replace("the judge", f"the {self.who}")
            entry["failure"] = reason[:LONGEST_REASON] or "no answer"
        return entry

    def _key(self, question: Question) -> str:
        images, text, model = question.key(self.settings.model)
        return hashlib.sha256(json.dumps([self.who, images, text, model]).encode()).hexdigest()[:32]

    def _tokens(self, completion: Any) -> int | None:
        """Return the number of tokens that the server counted. None: it does not say. Raises InputError if the budget
        needs this number."""
        usage = completion.get("usage") if isinstance(completion, dict) else None
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
            return tokens
        if self.budget.limits.tokens is not None:
            raise InputError(
                f"the {self.who} does not say how many tokens it used, so budget.tokens has no effect: use budget.calls"
            )
        return None

    def _count_failure(self, failure: str) -> None:
        self._failed += 1
        counted = self.log.counted[self.who]
        if self._failed >= GIVE_UP and counted["calls"] == counted["failed"]:
            raise InputError(f"all {self._failed} questions to the {self.who} failed, the last one: {failure}")


def _client(settings: ServiceRecipe, base_url: str) -> JudgeClient:
    logprobs = isinstance(settings, JudgeRecipe) and settings.logprobs
    return connect(
        base_url=base_url, model=settings.model, api_key_env=settings.api_key_env, timeout=settings.timeout_s,
        retries=settings.retries, backoff=BACKOFF_S, breaker_after=0, cache_size=0, max_tokens=settings.max_tokens,
        logprobs=logprobs, extra_body=settings.extra_body, headers=settings.headers,
        key_over_http=settings.key_over_http,
    )  # fmt: skip

"""Asks scorers about many images, and writes each answer at once to a log. A call that was interrupted continues where
it stopped.

A line of the log is one answer. It is found again by the scorer and its settings, the pixels, the prompt, and the
round. So an answer can never be used for another image, another prompt or a scorer with other settings. Failed answers
are asked for again by the next call.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.reward_bench.images import BenchImage, digest_of, prompt_digest
from irg_rl.task import Pixels
from irg_rl.text_in import parse_json, read_lines
from rewards.base import ScorerUnavailable
from rewards.hub import RewardHub

OpenHub = Callable[[str], AbstractContextManager[RewardHub]]
"""Type of a function that loads one scorer of a recipe. Argument: its name. Result: a context that gives a hub with
this scorer alone."""
NOT_USED = "not used for this prompt"
"""Error of an item whose prompt the scorer is not used for (the setting `when` in a recipe)."""
LogKey = tuple[str, str, str, int]
"""(scorer with its settings, hash of the pixels, hash of the prompt, number of the round)"""
Advance = Callable[[int, str], None]
BATCH = 16


@dataclass(frozen=True)
class ScoreAnswer:
    """A scorer's answer about one image. `score` is None if it failed, and then `error` says why. `seconds` is the time
    of the call, divided by the number of its images. If the scorer is not used for the prompt, `error` is NOT_USED, and
    this is no failure."""

    score: float | None
    error: str = ""
    seconds: float = 0.0

    @property
    def used(self) -> bool:
        """Whether the scorer is used for the prompt."""
        return self.score is not None or self.error != NOT_USED

    @property
    def failed(self) -> bool:
        return self.score is None and self.used


class ScoreLog:
    """The answers of all scorers, in a file to which lines are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[LogKey, ScoreAnswer] = {}
        if path.is_file():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, key: LogKey, answer: ScoreAnswer) -> None:
        self.answers[key] = answer
        line = {"scorer": key[0], "image": key[1], "prompt": key[2], "round": key[3],
                "score": answer.score, "error": answer.error, "seconds": answer.seconds}  # fmt: skip
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self) -> None:
        """Read the answers. A last line that was cut off is dropped. Raises InputError for any other broken line."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            self.path.write_bytes(content[: content.rfind(b"\n") + 1])
        for where, line in read_lines(self.path):
            entry = parse_json(line, where)
            try:
                key = (str(entry["scorer"]), str(entry["image"]), str(entry["prompt"]), int(entry["round"]))
                self.answers[key] = ScoreAnswer(entry["score"], entry["error"], entry["seconds"])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{where}: not an answer of a scorer ({error!r}): delete {self.path}") from error


@dataclass(frozen=True)
class Item:
    """An image with its pixels' hash, or with the reason why it cannot be decoded."""

    image: BenchImage
    digest: str
    problem: str = ""

    def key(self, scorer: str, round_: int) -> LogKey:
        return scorer, self.digest, prompt_digest(self.image.prompt), round_


def items_of(images: Sequence[BenchImage]) -> list[Item]:
    """Read every image once, to compute its hash and to find those that cannot be decoded."""
    items = []
    for image in images:
        try:
            items.append(Item(image, digest_of(image.read())))
        except InputError as error:
            items.append(Item(image, "", redact_text(str(error))))
    return items


@dataclass(frozen=True)
class ScorerCase:
    """A scorer of the recipe that is measured. `identity` is its name with a hash of its settings; the log finds its
    answers by this text."""

    name: str
    kind: str
    identity: str
    weight: float = 1.0
    held_out: bool = False


def ask_scorer(
    case: ScorerCase,
    items: Sequence[Item],
    log: ScoreLog,
    open_hub: OpenHub,
    advance: Advance = lambda done, note: None,
    round_: int = 0,
    batch: int = BATCH,
) -> list[ScoreAnswer]:
    """Return one answer per item. Answers that the log has are not asked for again, except failed ones. Items whose
    prompt the scorer is not used for are not asked for. The log keeps them, too. The scorer is loaded only if something
    is missing. A scorer that cannot work is a failure of all missing items, with its reason.

    `round_`: a number above 0 asks the same again, for the noise between equal calls.
    """
    found: dict[LogKey, ScoreAnswer] = {}
    if todo := unanswered(case, items, log, round_):
        try:
            with open_hub(case.name) as hub:
                hub.check()
                unused = {key: item for key, item in todo.items() if not hub.used(case.name, item.image.prompt)}
                for key in unused:
                    log.add(key, ScoreAnswer(None, NOT_USED))
                advance(len(unused), case.name)
                keys = [key for key in todo if key not in unused]
                for start in range(0, len(keys), batch):
                    part = keys[start : start + batch]
                    for key, answer in zip(part, _ask(hub, case.name, [todo[key] for key in part]), strict=True):
                        log.add(key, answer)
                    advance(len(part), case.name)
        except (ScorerUnavailable, InputError) as error:
            reason = ScoreAnswer(None, f"unavailable: {redact_text(str(error))}")
            found = {key: reason for key in todo if log.answers.get(key, reason).failed}
            advance(len(found), f"{case.name}: unavailable")
    return [
        ScoreAnswer(None, item.problem) if item.problem
        else found.get(key := item.key(case.identity, round_)) or log.answers[key]
        for item in items
    ]  # fmt: skip


def unanswered(case: ScorerCase, items: Sequence[Item], log: ScoreLog, round_: int = 0) -> dict[LogKey, Item]:
    """Return the items for which the log has no score of this scorer. Equal items are returned once. Items that cannot
    be decoded are left out, and those that the log knows as not used."""
    todo = {item.key(case.identity, round_): item for item in items if not item.problem}
    return {key: item for key, item in todo.items() if key not in log.answers or log.answers[key].failed}


def _ask(hub: RewardHub, name: str, items: Sequence[Item]) -> list[ScoreAnswer]:
    """Score the items in one call. If only some of them failed, each of these is asked for once more alone, so that its
    reason is its own."""
    pixels, prompts = [item.image.read() for item in items], [item.image.prompt for item in items]
    stats = hub.stats[name]
    before = stats.seconds
    scores = hub.score_with(name, pixels, prompts)
    seconds = (stats.seconds - before) / len(items)
    reason = _reason(hub, name)
    answers = [ScoreAnswer(score, "" if score is not None else reason, seconds) for score in scores]
    if all(score is None for score in scores):
        return answers
    return [
        answer if answer.score is not None else _alone(hub, name, image, item, seconds)
        for answer, image, item in zip(answers, pixels, items, strict=True)
    ]


def _alone(hub: RewardHub, name: str, pixels: Pixels, item: Item, seconds: float) -> ScoreAnswer:
    [score] = hub.score_with(name, [pixels], [item.image.prompt])
    return ScoreAnswer(score, "" if score is not None else _reason(hub, name), seconds)


def _reason(hub: RewardHub, name: str) -> str:
    return redact_text(hub.scorers[name].last_error) or "it gave no reason"


def reasons(answers: Sequence[ScoreAnswer]) -> dict[str, int]:
    """Return the reasons of failed answers, and how often each occurred, the most frequent first."""
    return dict(Counter(answer.error for answer in answers if answer.failed).most_common())


def images_per_second(answers: Sequence[ScoreAnswer]) -> float:
    """Return how many images the scorer scored per second. nan if it never did."""
    times = [answer.seconds for answer in answers if answer.score is not None]
    return len(times) / total if (total := sum(times)) else float("nan")


def table_rows(items: Sequence[Item], answers: dict[str, list[ScoreAnswer]]) -> list[dict[str, Any]]:
    """Return the table of scores: one row per image, with a column for each scorer, and one for its errors."""
    rows = []
    for number, item in enumerate(items):
        image = item.image
        row: dict[str, Any] = {
            "image": image.where, "prompt_id": image.prompt.id, "prompt": image.prompt.text, "group": image.group,
            "sample": image.sample, "turn": image.turn,
        }  # fmt: skip
        for name, given in answers.items():
            row[name], row[f"{name}.error"] = given[number].score, given[number].error or None
        rows.append(row)
    return rows

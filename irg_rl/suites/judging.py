"""Judging here, where a suite is only questions to an MLLM: what is asked, what is understood, and a log that resumes.

A question that the judge refuses or answers with something else stays a failure: it is counted and asked again by the
next call. Nothing is turned into a number that was not said.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Picture, Suite
from irg_rl.suites.files import whole_lines
from irg_rl.suites.scores import ItemScore, Key, Results
from irg_rl.suites.trees import write_whole
from irg_rl.trajectory import Prompt

LOG = "judged-*.jsonl"
BUILT_IN = "built in"
"""The template of a suite whose question is a format fact."""
GIVE_UP = 32
"""Failures after which a call ends if there was never an answer: the judge is down, or the template does not suit."""

_THOUGHTS = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)


class BadAnswer(Exception):
    """The judge's answer cannot be understood; the message says what it was."""


@dataclass(frozen=True)
class Ask:
    """A question about one picture. `name` is its place among the questions of that picture."""

    name: str
    text: str
    accepted: tuple[str, ...] = ()
    """Spellings of the right answer, where its probability is the score."""
    parts: int = 1
    """Questions in one request."""


class Judged:
    """Beside `Suite`: a suite that can be judged here. Without `needs_template` its question is a format fact; with it
    the official template is read from a file of the user's, because a comparison needs its exact words."""

    needs_template: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 64

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        """All questions about a picture of this prompt."""
        raise NotImplementedError

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        """The names of all questions, which need no template."""
        raise NotImplementedError

    def answer(self, ask: Ask, completion: object) -> Any:
        """What the judge answered, as JSON. Raises BadAnswer."""
        raise NotImplementedError

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        """Scores by metric, from the answers to all questions by name."""
        raise NotImplementedError


Completion = Callable[[Ask, bytes], object]
"""A question about a PNG -> the chat completion as it came. Raises what the judge client raises."""


@dataclass(frozen=True)
class Protocol:
    """Who judged and with which words; two logs with different protocols are different measurements."""

    suite: str
    judge: str
    template: str
    """sha256 of the template, or BUILT_IN."""
    max_tokens: int
    temperature: float = 0.0
    extra_body: str = "{}"
    """Further fields of every request, as JSON."""


@dataclass
class Tally:
    """How a round of questions went."""

    answered: int = 0
    failed: int = 0
    missing_images: int = 0
    kept: int = 0
    last_failure: str = ""


@dataclass
class Log:
    """One JSON line per question, appended as answers come; the first line is the protocol."""

    path: Path
    protocol: Protocol
    answers: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    failures: dict[tuple[str, int, str], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, picture: tuple[str, int], ask: str, answer: Any, failure: str = "") -> None:
        entry = {"prompt": picture[0], "sample": picture[1], "ask": ask, "answer": answer, "failure": failure}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        key = (str(entry["prompt"]), int(entry["sample"]), str(entry["ask"]))
        self.failures.pop(key, None)
        if entry["failure"]:
            self.failures[key] = entry["failure"]
        else:
            self.answers[key] = entry["answer"]


def log_name(judge: str) -> str:
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in judge)
    return LOG.replace("*", plain)


def template_digest(template: str) -> str:
    return hashlib.sha256(template.encode()).hexdigest()


def open_log(path: Path, protocol: Protocol) -> Log:
    """A new log, or one that was begun by the same protocol. A line that a crash cut off is dropped."""
    if not path.exists():
        path.write_text(json.dumps({"protocol": asdict(protocol)}) + "\n", encoding="utf-8")
        return Log(path, protocol)
    log = read_log(path)
    if log.protocol != protocol:
        theirs, ours = asdict(log.protocol), asdict(protocol)
        differ = ", ".join(f"{k} {theirs[k]!r} there, {ours[k]!r} now" for k in ours if theirs[k] != ours[k])
        raise InputError(f"{path} was begun by another protocol ({differ}): move it away to judge anew")
    if log.problems:  # the next line must not be glued to half a line
        whole = [json.dumps(entry) for _, entry in whole_lines(path, [])]
        write_whole(path, ("\n".join(whole) + "\n").encode())
        log.problems.clear()
    return log


def read_log(path: Path) -> Log:
    problems: list[str] = []
    lines = iter(whole_lines(path, problems))
    _, first = next(lines, (0, {}))
    try:
        log = Log(path, Protocol(**first["protocol"]), problems=problems)
        for _, entry in lines:
            log._take(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no log of `irg-rl suite judge` ({error!r}): move it away") from error
    return log


def judge_tree(
    suite: Suite,
    tree: Path,
    pictures: Sequence[Picture],
    template: str,
    log: Log,
    complete: Completion,
    png: Callable[[Path], bytes],
    failures: type[Exception] | tuple[type[Exception], ...],
    concurrency: int,
    progress: Callable[[int], None],
    earlier: Sequence[tuple[Path, Log]] = (),
) -> Tally:
    """Ask all that is not answered yet. `failures`: what `complete` raises where one question fails; all else ends the
    call, and the answers so far are in the log. `earlier`: judged trees, whose answers hold where an image is the
    same, as it is after a trajectory stopped."""
    judged = judged_suite(suite)
    tally = Tally()

    def one(picture: Picture, ask: Ask) -> tuple[Any, str]:
        try:
            return judged.answer(ask, complete(ask, png(tree / picture.path))), ""
        except BadAnswer as bad:
            return None, str(bad)
        except failures as failure:
            return None, str(failure) or type(failure).__name__

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        waiting = {}
        for picture, ask in _open_questions(judged, tree, pictures, template, log, tally, progress, earlier):
            waiting[pool.submit(one, picture, ask)] = (picture, ask)
        try:
            for done in as_completed(waiting):
                picture, ask = waiting[done]
                answer, failure = done.result()
                log.add(picture.name, ask.name, answer, failure)
                tally.failed += bool(failure)
                tally.answered += not failure
                tally.last_failure = failure or tally.last_failure
                progress(1)
                if tally.failed >= GIVE_UP and not log.answers:
                    raise InputError(f"the first {tally.failed} questions all failed, the last one: {failure}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tally


def _open_questions(
    judged: Judged,
    tree: Path,
    pictures: Iterable[Picture],
    template: str,
    log: Log,
    tally: Tally,
    progress: Callable[[int], None],
    earlier: Sequence[tuple[Path, Log]],
) -> Iterator[tuple[Picture, Ask]]:
    for picture in pictures:
        if not (tree / picture.path).is_file():
            tally.missing_images += 1
            progress(len(judged.ask_names(picture.prompt)))
            continue
        for ask in judged.asks(picture.prompt, template):
            key = (*picture.name, ask.name)
            if key not in log.answers and (known := _same_image(tree, picture, key, earlier)) is not None:
                log.add(picture.name, ask.name, known.answers[key])
            if key in log.answers:
                tally.kept += 1
                progress(1)
            else:
                yield picture, ask


def _same_image(
    tree: Path, picture: Picture, key: tuple[str, int, str], earlier: Sequence[tuple[Path, Log]]
) -> Log | None:
    """The log of an earlier tree that has an answer about the same bytes."""
    image = (tree / picture.path).read_bytes() if earlier else b""
    for other, log in earlier:
        path = other / picture.path
        if key in log.answers and path.is_file() and path.read_bytes() == image:
            return log
    return None


def judged_results(suite: Suite, log: Log, pictures: Sequence[Picture]) -> Results:
    """Scores of the pictures whose questions are all answered; those that lack one are problems, counted."""
    judged = judged_suite(suite)
    results = Results(f"judged here by {log.protocol.judge}", problems=list(log.problems))
    for picture in pictures:
        names = judged.ask_names(picture.prompt)
        there = {name: log.answers[key] for name in names if (key := (*picture.name, name)) in log.answers}
        if lacking := [name for name in names if name not in there]:
            why = log.failures.get((*picture.name, lacking[0]), "not asked")
            results.problems.append(f"{log.path.name}: {picture.path} lacks {len(lacking)} of {len(names)} ({why})")
            continue
        for metric, score in judged.judged(picture.prompt, there).items():
            results.scores[Key(*picture.name, metric)] = score
    return results


def judged_suite(suite: Suite) -> Judged:
    if not isinstance(suite, Judged):
        raise InputError(f"{suite.title} is not judged here: run its official evaluator (docs/suites.md)")
    return suite


def fill(template: str, values: Mapping[str, str]) -> str:
    """`{name}` in the template by its value; other braces stay. InputError where the template lacks a name."""
    if missing := [name for name in values if "{" + name + "}" not in template]:
        raise InputError(f"the template lacks {{{missing[0]}}}: the judge would not know what to look for")
    names = "|".join(map(re.escape, values))  # at once: a prompt may hold braces itself
    return re.sub("{(" + names + ")}", lambda found: values[found[1]], template)


def said(completion: object) -> str:
    """The text of a chat completion, without the thoughts that some servers put before the answer. Raises BadAnswer
    where there is none."""
    try:
        text = _first_choice(completion)["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer(f"no chat completion: {completion!r:.120}") from error
    answer = _THOUGHTS.sub("", text) if isinstance(text, str) else ""
    if not answer.strip():
        raise BadAnswer(f"an empty answer: {completion!r:.120}")
    return answer


def verdict(completion: object) -> float:
    """1 for yes, true or 1; 0 for no, false or 0. Raises BadAnswer where none or both are said."""
    words = set(re.findall(r"\b(yes|no|true|false|[01])\b", said(completion).lower()))
    right, wrong = words & {"yes", "true", "1"}, words & {"no", "false", "0"}
    if bool(right) == bool(wrong):
        raise BadAnswer(f"neither yes (1) nor no (0), or both, in {said(completion)[:120]!r}")
    return 1.0 if right else 0.0


def probability(completion: object, accepted: Sequence[str]) -> float:
    """Sum of the probabilities of these spellings as first token, among the alternatives that came back."""
    try:
        first = _first_choice(completion)["logprobs"]["content"][0]["top_logprobs"]
        found = {str(one["token"]): math.exp(min(float(one["logprob"]), 0.0)) for one in first}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadAnswer("no log-probabilities in the answer: the judge's server must send top_logprobs") from error
    return min(sum(found.get(word, 0.0) for word in accepted), 1.0)


def _first_choice(completion: Any) -> Any:
    return completion["choices"][0]

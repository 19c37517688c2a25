"""Judging of suites that only need questions to an MLLM: the questions, the answers, and a log that can be resumed.

If the judge refuses a question or gives an invalid answer, this is a failure. Failures are counted, and the next call
asks again. They never become numbers.
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
"""Name of the template of a suite whose question is part of its format."""
GIVE_UP = 32
"""After this many failures without any answer a call ends: the judge is down, or the template is unsuitable."""

_THOUGHTS = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)


class BadAnswer(Exception):
    """The judge's answer cannot be understood. The message quotes it."""


@dataclass(frozen=True)
class Ask:
    """A question about one picture. `name` identifies it among the questions about this picture."""

    name: str
    text: str
    accepted: tuple[str, ...] = ()
    """Spellings of the right answer, if its probability is the score."""
    parts: int = 1
    """Number of questions in one request."""


class Judged:
    """Second base class of suites that can be judged here. With `needs_template`, the user gives a file with the
    official template, because comparisons need its exact words. Without it, the question is part of the suite's
    format."""

    needs_template: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 64

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        """All questions about a picture of this prompt."""
        raise NotImplementedError

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        """The names of all questions. They can be listed without the template."""
        raise NotImplementedError

    def answer(self, ask: Ask, completion: object) -> Any:
        """The judge's answer as JSON. Raises BadAnswer."""
        raise NotImplementedError

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        """Scores by metric, from the answers to all questions by name."""
        raise NotImplementedError


Completion = Callable[[Ask, bytes], object]
"""(question, PNG) -> the unchanged chat completion. Raises what the judge client raises."""


@dataclass(frozen=True)
class Protocol:
    """The judge and the words of its questions. Logs with different protocols are different measurements."""

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
    """Numbers of answers and failures in a round of questions."""

    answered: int = 0
    failed: int = 0
    missing_images: int = 0
    kept: int = 0
    last_failure: str = ""


@dataclass
class Log:
    """A log with one JSON line per question, written when its answer arrives. The first line is the protocol."""

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
    """Open a new log, or continue one with the same protocol. A line that was cut off by a crash is removed."""
    if not path.exists():
        path.write_text(json.dumps({"protocol": asdict(protocol)}) + "\n", encoding="utf-8")
        return Log(path, protocol)
    log = read_log(path)
    if log.protocol != protocol:
        theirs, ours = asdict(log.protocol), asdict(protocol)
        differ = ", ".join(f"{k} {theirs[k]!r} there, {ours[k]!r} now" for k in ours if theirs[k] != ours[k])
        raise InputError(f"{path} was begun by another protocol ({differ}): move it away to judge anew")
    if log.problems:  # the next line must start on a line of its own
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
    """Ask all questions without an answer.

    failures: exceptions of `complete` that mean that one question failed. Other exceptions end the call, and the log
        keeps the answers so far.
    earlier: judged trees. Their answers are reused for equal images, as after a trajectory has stopped.
    """
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
    """The log of an earlier tree with an answer about the same image bytes."""
    image = (tree / picture.path).read_bytes() if earlier else b""
    for other, log in earlier:
        path = other / picture.path
        if key in log.answers and path.is_file() and path.read_bytes() == image:
            return log
    return None


def judged_results(suite: Suite, log: Log, pictures: Sequence[Picture]) -> Results:
    """Scores of all pictures whose questions are all answered. The number of other pictures is reported as a
    problem."""
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
    """Replace `{name}` in the template by its value. Other braces stay. InputError if the template lacks a name."""
    if missing := [name for name in values if "{" + name + "}" not in template]:
        raise InputError(f"the template lacks {{{missing[0]}}}: the judge would not know what to look for")
    names = "|".join(map(re.escape, values))  # all names in one pass, because a prompt may contain braces
    return re.sub("{(" + names + ")}", lambda found: values[found[1]], template)


def said(completion: object) -> str:
    """The text of a chat completion, without thoughts that some servers put before the answer. BadAnswer if there is no
    text."""
    try:
        text = _first_choice(completion)["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer(f"no chat completion: {completion!r:.120}") from error
    answer = _THOUGHTS.sub("", text) if isinstance(text, str) else ""
    if not answer.strip():
        raise BadAnswer(f"an empty answer: {completion!r:.120}")
    return answer


def verdict(completion: object) -> float:
    """1 for yes, true or 1; 0 for no, false or 0. BadAnswer if the text has neither or both."""
    words = set(re.findall(r"\b(yes|no|true|false|[01])\b", said(completion).lower()))
    right, wrong = words & {"yes", "true", "1"}, words & {"no", "false", "0"}
    if bool(right) == bool(wrong):
        raise BadAnswer(f"neither yes (1) nor no (0), or both, in {said(completion)[:120]!r}")
    return 1.0 if right else 0.0


def probability(completion: object, accepted: Sequence[str]) -> float:
    """Sum of the probabilities of these spellings as the first token, among the returned alternatives."""
    try:
        first = _first_choice(completion)["logprobs"]["content"][0]["top_logprobs"]
        found = {str(one["token"]): math.exp(min(float(one["logprob"]), 0.0)) for one in first}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadAnswer("no log-probabilities in the answer: the judge's server must send top_logprobs") from error
    return min(sum(found.get(word, 0.0) for word in accepted), 1.0)


def _first_choice(completion: Any) -> Any:
    return completion["choices"][0]

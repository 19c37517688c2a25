"""Judging of suites that only need questions to a multimodal language model (the judge). The module asks the questions,
reads the answers, and writes a log, so that an interrupted run can continue.

If the judge refuses a question or gives an invalid answer, the question has failed. Failed questions are counted and
asked again by the next call. A failure never becomes a score.
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
"""Name of the template if the format of the suite already contains the question."""
GIVE_UP = 32
"""Number of failures after which a call ends if there was no answer at all. The judge is then probably down, or the
template does not suit it."""

_THOUGHTS = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)


class BadAnswer(Exception):
    """Raised if the answer of the judge cannot be understood. The message quotes the answer."""


@dataclass(frozen=True)
class Ask:
    """A question about one picture. `name` distinguishes it from the other questions about the same picture."""

    name: str
    text: str
    accepted: tuple[str, ...] = ()
    """Accepted spellings of the right answer. Used if the score is the probability of the right answer."""
    parts: int = 1
    """Number of questions that this request contains."""


class Judged:
    """Second base class of the suites that this program can judge itself. If `needs_template` is True, the user gives a
    file with the official template, because results are comparable only with its exact words. If it is False, the
    format of the suite contains the questions."""

    needs_template: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 64

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        """Return all questions about a picture of this prompt."""
        raise NotImplementedError

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        """Return the names of all questions about a picture of this prompt. This works without the template."""
        raise NotImplementedError

    def answer(self, ask: Ask, completion: object) -> Any:
        """Read the answer of the judge and return it as JSON data. Raises BadAnswer if it cannot be understood."""
        raise NotImplementedError

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        """Return metric -> score for a picture. `answers` maps the name of each question to its answer."""
        raise NotImplementedError


Completion = Callable[[Ask, bytes], object]
"""A function that sends a question and a PNG image to the judge and returns the chat completion unchanged. It raises
the errors of the judge client."""


@dataclass(frozen=True)
class Protocol:
    """The judge, and the settings of its questions. Answers that were made with different protocols cannot be mixed."""

    suite: str
    judge: str
    template: str
    """The sha256 of the template, or the value of BUILT_IN."""
    max_tokens: int
    temperature: float = 0.0
    extra_body: str = "{}"
    """Additional fields of every request, as JSON."""


@dataclass
class Tally:
    """How many questions were answered, failed, or were already answered before (`kept`) in one call, and how many
    images were missing."""

    answered: int = 0
    failed: int = 0
    missing_images: int = 0
    kept: int = 0
    last_failure: str = ""


@dataclass
class Log:
    """A log file with one JSON line per question, which is written as soon as its answer arrives. The first line of the
    file is the protocol."""

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
    """Create a log, or open a log with the same protocol to continue it. A line that was cut off by a crash is removed.
    Raises InputError if the log has another protocol."""
    if not path.exists():
        path.write_text(json.dumps({"protocol": asdict(protocol)}) + "\n", encoding="utf-8")
        return Log(path, protocol)
    log = read_log(path)
    if log.protocol != protocol:
        theirs, ours = asdict(log.protocol), asdict(protocol)
        differ = ", ".join(f"{k} {theirs[k]!r} there, {ours[k]!r} now" for k in ours if theirs[k] != ours[k])
        raise InputError(f"{path} was begun by another protocol ({differ}): move it away to judge anew")
    if log.problems:  # rewrite the file without the cut-off line, so that the next entry begins on a new line
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
    """Ask all questions about the pictures of a tree that are not answered yet. Return how many were answered and
    failed.

    failures: exceptions of `complete` that mean that only one question failed. Any other exception ends the call, and
    the log keeps the answers so far.
    earlier: trees that were judged before, with their logs. If an image is the same as in one of them, its answers are
    copied. This happens after a trajectory has stopped.
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
    """Return the log of the first earlier tree that has an answer to this question about an identical image file.
    Return None if there is no such tree."""
    image = (tree / picture.path).read_bytes() if earlier else b""
    for other, log in earlier:
        path = other / picture.path
        if key in log.answers and path.is_file() and path.read_bytes() == image:
            return log
    return None


def judged_results(suite: Suite, log: Log, pictures: Sequence[Picture]) -> Results:
    """Return the scores of all pictures whose questions are all answered in the log. Each other picture is reported as
    a problem."""
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
    """Replace each `{name}` in the template by its value. Other braces stay as they are. Raises InputError if a name
    does not occur in the template."""
    if missing := [name for name in values if "{" + name + "}" not in template]:
        raise InputError(f"the template lacks {{{missing[0]}}}: the judge would not know what to look for")
    names = "|".join(map(re.escape, values))  # all names in one pass, because a prompt may contain braces
    return re.sub("{(" + names + ")}", lambda found: values[found[1]], template)


def said(completion: object) -> str:
    """Return the text of a chat completion. Thoughts that some servers put before the answer are removed. Raises
    BadAnswer if there is no text."""
    try:
        text = _first_choice(completion)["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer(f"no chat completion: {completion!r:.120}") from error
    answer = _THOUGHTS.sub("", text) if isinstance(text, str) else ""
    if not answer.strip():
        raise BadAnswer(f"an empty answer: {completion!r:.120}")
    return answer


def verdict(completion: object) -> float:
    """Return 1.0 if the answer contains yes, true or 1, and 0.0 if it contains no, false or 0. Raises BadAnswer if it
    contains neither or both."""
    words = set(re.findall(r"\b(yes|no|true|false|[01])\b", said(completion).lower()))
    right, wrong = words & {"yes", "true", "1"}, words & {"no", "false", "0"}
    if bool(right) == bool(wrong):
        raise BadAnswer(f"neither yes (1) nor no (0), or both, in {said(completion)[:120]!r}")
    return 1.0 if right else 0.0


def probability(completion: object, accepted: Sequence[str]) -> float:
    """Return the probability that the first token of the answer is one of the accepted spellings. Only the alternatives
    that the server returned are added up. Raises BadAnswer if it returned none."""
    try:
        first = _first_choice(completion)["logprobs"]["content"][0]["top_logprobs"]
        found = {str(one["token"]): math.exp(min(float(one["logprob"]), 0.0)) for one in first}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadAnswer("no log-probabilities in the answer: the judge's server must send top_logprobs") from error
    return min(sum(found.get(word, 0.0) for word in accepted), 1.0)


def _first_choice(completion: Any) -> Any:
    return completion["choices"][0]

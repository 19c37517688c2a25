"""Judge images by asking a multimodal language model (the judge) questions about them. This works for suites
(benchmarks) that need nothing else for their scores. This module asks the questions, reads the answers, and writes them
to a log, so that an interrupted run can continue.

A question fails if the judge refuses it or gives an invalid answer. Failed questions are counted, and the next call
asks them again. A failure never becomes a score.
"""

import hashlib
import json
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
from irg_rl.suites.trees import is_whole, write_whole
from irg_rl.trajectory import Prompt

LOG = "judged-*.jsonl"
BUILT_IN = "built in"
"""Value of `Protocol.template` if the suite needs no template file (a file with the words in which the judge is asked).
Such a suite brings its own questions."""
GIVE_UP = 32
"""If this many questions have failed and none was answered, the judging ends with an error. Probable reasons: the judge
is down, or the template (the words in which it is asked) does not suit it."""

_THOUGHTS = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)


class BadAnswer(Exception):
    """Raised if the answer of the judge cannot be understood. The message quotes the answer."""


@dataclass(frozen=True)
class Ask:
    """One request to the judge: a question about one image, or several questions in one text. `name` distinguishes it
    from the other requests about the same image."""

    name: str
    text: str
    accepted: tuple[str, ...] = ()
    """Accepted spellings of the right answer. They are needed only by suites whose score is the probability of the
    right answer."""
    parts: int = 1
    """Number of questions in `text`. A text can contain several questions, which are sent in one request."""


class Judged:
    """Mixin class of suites (benchmarks) for which this program can judge the images itself. If `needs_template` is
    True, the user must give a file with the official template (the words in which the judge is asked). Results are
    comparable only with these exact words. If `needs_template` is False, no file is needed: the questions are in the
    prompts file."""

    needs_template: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 64

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        """Return all questions to the judge about an image of this prompt. `template` is the content of the template
        file (the words in which the judge is asked)."""
        raise NotImplementedError

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        """Return the names of all questions to the judge about an image of this prompt. Unlike `asks`, this method
        works without the template file."""
        raise NotImplementedError

    def answer(self, ask: Ask, completion: object) -> Any:
        """Extract the answer to the question `ask` from a chat completion of the judge, and return the answer as JSON
        data. Raises BadAnswer if the answer cannot be understood."""
        raise NotImplementedError

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        """Compute the scores of one image from the answers of the judge. Return a dict: name of the metric -> score.
        `answers` maps the name of each question to its answer."""
        raise NotImplementedError


Completion = Callable[[Ask, bytes], object]
"""A function that sends a question and an image (as PNG data) to the judge, and returns the chat completion unchanged.
If the request fails, it raises the exceptions of the judge's client."""


@dataclass(frozen=True)
class Protocol:
    """The judge (a multimodal language model) and the settings with which it is asked. All answers in one log must have
    been obtained with the same protocol."""

    suite: str
    judge: str
    template: str
    """The sha256 of the template file (the words in which the judge is asked), or BUILT_IN if the suite needs no such
    file."""
    max_tokens: int
    temperature: float = 0.0
    extra_body: str = "{}"
    """Additional fields of every request, as JSON."""


@dataclass
class Tally:
    """Counts of one call of `judge_tree`. Three fields count questions:
    * `answered`: the judge answered the question in this call.
    * `failed`: the question failed in this call.
    * `kept`: the answer was known before, or was copied from another folder that has the same image.

    `missing_images` counts the images that do not exist or were not written to their end. `last_failure` is the error
    message of the question that failed last.
    """

    answered: int = 0
    failed: int = 0
    missing_images: int = 0
    kept: int = 0
    last_failure: str = ""


@dataclass
class Log:
    """A log of the judge's answers, with its file `path`. The first line of the file is the protocol (the judge and its
    settings). Then there is one JSON line per question. Each line is written as soon as the answer arrives. The keys of
    the dicts `answers` and `failures` are (prompt id, sample, name of the question). `answers` has the answers of the
    judge, and `failures` the error messages of failed questions."""

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
    """Open the log file `path` to add answers to it, and return the log with the answers so far. If the file does not
    exist, it is created. A line that was only half written because of a crash is removed. Raises InputError if the
    existing log has another protocol (judge and settings)."""
    if not path.exists():
        write_whole(path, (json.dumps({"protocol": asdict(protocol)}) + "\n").encode())
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
    """Ask the judge all questions about the images of a folder. Questions that are answered in `log` are not asked
    again. The new answers are added to `log`. Return a `Tally`: counts of questions (answered, failed, known before)
    and of missing images.

    suite: the benchmark. It defines the questions.
    tree: the folder of images.
    pictures: the image files that the folder should have.
    template: the content of the template file (the words in which the judge is asked).
    complete: a function that sends one question and one image to the judge, and returns the chat completion.
    png: a function that reads an image file and returns the image as PNG data.
    failures: types of exceptions. If one of them is raised for a question, only this question has failed. Any other
    exception ends the call, and the log keeps the answers so far.
    concurrency: the largest number of questions that are asked at the same time.
    progress: a function that is called with the number of questions that have just been finished or skipped.
    earlier: folders of images that were judged before, with their logs. If such a folder has an identical image file,
    the answers about this file are copied. Identical files are common: after a trajectory has stopped, its last image
    is repeated in the folders of the later turns.

    Raises InputError if the number of failed questions has reached GIVE_UP and `log` still has no answer.
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
        if not is_whole(tree / picture.path):
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
    """Return the log of the first earlier folder in which the question `key` was answered about an identical image
    file. Return None if there is no such folder. `earlier` has pairs (folder, log)."""
    image = (tree / picture.path).read_bytes() if earlier else b""
    for other, log in earlier:
        path = other / picture.path
        if key in log.answers and path.is_file() and path.read_bytes() == image:
            return log
    return None


def judged_results(suite: Suite, log: Log, pictures: Sequence[Picture]) -> Results:
    """Compute the scores of the images `pictures` from `log` (the log of the judge's answers), and return them. An
    image gets scores only if the judge has answered all questions about it. For every other image, a message is added
    to the list `problems` of the returned `Results`."""
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
    """Return the text `template` with each `{name}` replaced by the value of this name in `values`. Other braces stay
    as they are. Raises InputError if a name in `values` does not occur in the template."""
    if missing := [name for name in values if "{" + name + "}" not in template]:
        raise InputError(f"the template lacks {{{missing[0]}}}: the judge would not know what to look for")
    names = "|".join(map(re.escape, values))  # all names in one pass, because a prompt may contain braces
    return re.sub("{(" + names + ")}", lambda found: values[found[1]], template)


def said(completion: object) -> str:
    """Return the text of the answer in a chat completion. If the server has put the thoughts of the model before the
    answer, they are removed. Raises BadAnswer if there is no text."""
    try:
        text = _first_choice(completion)["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer(f"no chat completion: {completion!r:.120}") from error
    answer = _THOUGHTS.sub("", text) if isinstance(text, str) else ""
    if not answer.strip():
        raise BadAnswer(f"an empty answer: {completion!r:.120}")
    return answer


def verdict(completion: object) -> float:
    """Return the yes/no answer in a chat completion as a number. The words yes, true and 1 in the answer give 1.0. The
    words no, false and 0 give 0.0. Raises BadAnswer if the answer has none of these words, or if it contradicts itself,
    for example with "yes" and "no"."""
    words = set(re.findall(r"\b(yes|no|true|false|[01])\b", said(completion).lower()))
    right, wrong = words & {"yes", "true", "1"}, words & {"no", "false", "0"}
    if bool(right) == bool(wrong):
        raise BadAnswer(f"neither yes (1) nor no (0), or both, in {said(completion)[:120]!r}")
    return 1.0 if right else 0.0


def _first_choice(completion: Any) -> Any:
    return completion["choices"][0]

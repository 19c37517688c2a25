"""Puts small wrong changes (mutants) into a copy of the repository and asks the tests to find them.

    python -m tests.mutants [PART OF A NAME] [--jobs 1] [--limit 180] [--list]

The mutants stand in tests/mutant_list.py. A mutant is *found* if one of its tests fails, *timed out* if its tests do
not end (this counts as found), and *survived* if they pass. It is *broken* if the code that it changes or its tests are
gone, or if they fail without it.

Results are appended to runs/mutants.jsonl. A mutant with a result there is not run again, as long as its line, its file
and its test files stay as they were; only one that was broken is. So an interrupted run goes on where it stopped. The
exit status is 1 if a mutant has survived or is broken. This takes about an hour on one core and is not part of CI.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

import pytest
from pytest import ExitCode

from irg_rl.text_out import Terminal
from tests.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "runs" / "mutants.jsonl"
LONGEST_S = 180.0
"""How many seconds the tests of one mutant may take."""
START = multiprocessing.get_context("forkserver")
"""Starts each pytest as a fork of a process that has imported the slow packages. A test then begins seconds earlier."""
START.set_forkserver_preload(["pytest", "hypothesis", "pydantic", "omegaconf", "pyarrow.parquet", "trl.trainer.utils"])
NOT_COPIED = shutil.ignore_patterns(".git", "__pycache__", ".*cache", ".hypothesis", ".venv", "runs", "wandb")


class Outcome(StrEnum):
    FOUND = "found"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    BROKEN = "broken"


@dataclass(frozen=True)
class Result:
    """What became of one mutant. `key` is a hash of everything that the outcome depends on. `told` is the line of
    pytest that names the failed test, or the reason why the mutant is broken."""

    name: str
    key: str
    outcome: Outcome
    seconds: float
    told: str = ""


class BrokenMutant(ValueError):
    """Raised if the code that a mutant changes is not there, or is there too often."""


def changed(text: str, mutant: Mutant) -> str:
    """Return the text of the mutant's file with the wrong change in it."""
    parts, nth = text.split(mutant.old), mutant.nth or 1
    count = len(parts) - 1
    if count < nth or (mutant.nth is None and count > 1):
        wanted = "once" if mutant.nth is None else f"at least {nth} times"
        raise BrokenMutant(f"{mutant.old!r} occurs {count} times in {mutant.file}, it must occur {wanted}")
    return mutant.old.join(parts[:nth]) + mutant.new + mutant.old.join(parts[nth:])


def key_of(mutant: Mutant, root: Path) -> str:
    """Return a hash of the mutant, of the file that it changes and of its test files."""
    total = hashlib.sha256(repr(mutant).encode())
    for place in (mutant.file, *mutant.tests):
        path = root / place.partition("::")[0]
        total.update(path.read_bytes() if path.is_file() else b"missing")
    return total.hexdigest()[:16]


def run(
    mutants: Sequence[Mutant], root: Path, results: Path, jobs: int = 1, longest_s: float = LONGEST_S
) -> Iterator[Result]:
    """Yield the result of every mutant of the repository `root`: first the results that are already in the file
    `results`, then those of the others, which are appended to this file. Each of the `jobs` threads has a copy of the
    repository. Tests are first run once without a mutant: a mutant whose tests fail even so is broken, not found."""
    keys = {mutant.name: key_of(mutant, root) for mutant in mutants}
    known = {key: result for key, result in read(results).items() if result.outcome != Outcome.BROKEN}
    yield from (known[key] for key in keys.values() if key in known)
    todo = [mutant for mutant in mutants if keys[mutant.name] not in known]
    if not todo:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(min(jobs, len(todo))):
            trees.put(Path(shutil.copytree(root, Path(place, str(number)), ignore=NOT_COPIED)))

        sound: dict[tuple[str, ...], str] = {}  # tests -> why they fail without a mutant; empty if they pass

        def tried(mutant: Mutant) -> Result:
            tree, began = trees.get(), time.monotonic()
            try:
                if mutant.tests not in sound:
                    sound[mutant.tests] = failure_of(mutant.tests, tree, longest_s)
                reason = sound[mutant.tests]
                outcome, told = (Outcome.BROKEN, reason) if reason else outcome_of(mutant, tree, longest_s)
            finally:
                trees.put(tree)
            return Result(mutant.name, keys[mutant.name], outcome, round(time.monotonic() - began, 1), told)

        pool = ThreadPoolExecutor(jobs)
        try:
            for done in as_completed([pool.submit(tried, mutant) for mutant in todo]):
                append(results, done.result())
                yield done.result()
        finally:  # if the user stops the run, the mutants that are being tried are ended first
            pool.shutdown(cancel_futures=True)


def outcome_of(mutant: Mutant, tree: Path, longest_s: float = LONGEST_S) -> tuple[Outcome, str]:
    """Put the mutant into the copy `tree`, run its tests, and take it out again."""
    file = tree / mutant.file
    if not file.is_file():
        return Outcome.BROKEN, f"{mutant.file} is not there"
    text, times = file.read_text(encoding="utf-8"), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    try:
        wrong = changed(text, mutant)
    except BrokenMutant as error:
        return Outcome.BROKEN, str(error)
    file.write_text(wrong, encoding="utf-8")
    try:
        code, said = run_tests(mutant.tests, tree, longest_s)
    finally:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=times)  # a compiled file is used only if it has this time, so the mutant's is not
    told = first_failure(said)[:200]
    if code is None:
        return Outcome.TIMED_OUT, f"after {longest_s:g} s"
    if code == ExitCode.OK:
        return Outcome.SURVIVED, ""
    is_found = code in (ExitCode.TESTS_FAILED, ExitCode.INTERRUPTED)  # interrupted: an import has failed
    return Outcome.FOUND if is_found else Outcome.BROKEN, told


def failure_of(tests: Sequence[str], tree: Path, longest_s: float) -> str:
    """Return why the tests do not pass in the copy `tree` without a mutant, or an empty text if they pass."""
    code, said = run_tests(tests, tree, longest_s)
    told = first_failure(said) or f"no end after {longest_s:g} s"
    return "" if code == ExitCode.OK else f"its tests fail without it: {told}"[:200]


def first_failure(said: str) -> str:
    """Return the line of pytest's output that names the first failed test. If there is none, return the last line."""
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))] or said.splitlines()[-1:]
    return lines[0] if lines else ""


def run_tests(tests: Sequence[str], tree: Path, longest_s: float) -> tuple[int | None, str]:
    """Run tests in a copy of the repository. Return (exit status, output). The status is None if the time was over."""
    with tempfile.TemporaryDirectory(prefix="mutant-tests-") as base:
        said = Path(base, "said")
        words = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", f"{base}/pytest", *tests]
        process = START.Process(target=_pytest, args=(words, tree, said))
        process.start()
        process.join(longest_s)
        if process.is_alive():
            with suppress(ProcessLookupError):  # it had no time to make a group
                os.killpg(process.pid, signal.SIGKILL)  # the tests' own child processes, too
            process.kill()
            process.join()
            return None, ""
        return process.exitcode, said.read_text(encoding="utf-8", errors="replace")


def _pytest(words: Sequence[str], tree: Path, said: Path) -> None:
    """Run pytest in this process, which START has made, on the code in the folder `tree`. Output goes to `said`."""
    os.setsid()  # a process group of its own, which can be stopped as a whole
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for name, module in list(sys.modules.items()):  # this module, and what it imports from the repository itself
        if (vars(module).get("__file__") or "").startswith(str(ROOT)):
            del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")  # processes that tests start look it up
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    sys.exit(int(pytest.main(list(words))))


def read(results: Path) -> dict[str, Result]:
    """Return key -> result for all lines of a file of results. An incomplete last line is ignored."""
    whole = results.read_text(encoding="utf-8").rpartition("\n")[0].splitlines() if results.is_file() else []
    found = [json.loads(line) for line in whole]
    return {one["key"]: Result(**one | {"outcome": Outcome(one["outcome"])}) for one in found}


def append(results: Path, result: Result) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    words.add_argument("part", nargs="?", default="", help="run only mutants whose name contains this text")
    words.add_argument("--jobs", type=int, default=1, help="mutants that are tried at the same time")
    words.add_argument("--limit", type=float, default=LONGEST_S, help="seconds that the tests of a mutant may take")
    words.add_argument("--list", action="store_true", help="only show the mutants")
    asked = words.parse_args()
    chosen, terminal = [mutant for mutant in MUTANTS if asked.part in mutant.name], Terminal()
    if asked.list:
        for mutant in chosen:
            terminal.print(f"{mutant.name}: {mutant.old!r} -> {mutant.new!r} ({' '.join(mutant.tests)})")
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    counts: Counter[Outcome] = Counter()
    for result in run(chosen, ROOT, RESULTS, asked.jobs, asked.limit):
        counts[result.outcome] += 1
        terminal.print(f"{result.outcome:9} {result.seconds:6.1f} s  {result.name}  {result.told}")
    found, total = counts[Outcome.FOUND] + counts[Outcome.TIMED_OUT], sum(counts.values())
    named = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)
    terminal.print(f"{total} mutants: {named}; {found / max(total, 1):.1%} found")
    return int(counts[Outcome.SURVIVED] + counts[Outcome.BROKEN] > 0)


if __name__ == "__main__":
    sys.exit(main())

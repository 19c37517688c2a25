"""What a check is, and how it is run. A check never ends the others: whatever goes wrong in it becomes its result."""

import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from irg_rl.errors import explain, is_expected
from irg_rl.verify.bench import Workbench
from irg_rl.verify.finding import GIB, Finding, NotPossibleError


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    IMPOSSIBLE = "not possible here"


@dataclass(frozen=True)
class FolderCheck:
    """One check. `about` says in one or two sentences what it does."""

    name: str
    about: str
    run: Callable[[Workbench, Finding], None]


@dataclass(frozen=True)
class Result:
    """The result of a check. `reason` says why it failed or was not possible; it is empty if the requirements say all.
    `gpu_gib` is the largest memory on the GPU, or None if there is no GPU."""

    check: FolderCheck
    status: Status
    reason: str
    finding: Finding
    seconds: float
    gpu_gib: float | None


def attempt(check: FolderCheck, bench: Workbench) -> Result:
    """Run a check and return its result. An error fails the check. If no requirement could be decided, the check was
    not possible here."""
    finding, reason = Finding(), ""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    try:
        check.run(bench, finding)
        decided = [requirement.holds for requirement in finding.requirements if requirement.holds is not None]
        status = Status.IMPOSSIBLE if not decided else Status.PASSED if all(decided) else Status.FAILED
    except NotPossibleError as error:
        status, reason = Status.IMPOSSIBLE, str(error)
    except Exception as error:  # noqa: BLE001 - a mistake of the program, too, belongs on the page
        status, reason = Status.FAILED, _words(error)
    seconds = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / GIB if has_gpu else None
    gc.collect()
    if has_gpu:
        torch.cuda.empty_cache()
    return Result(check, status, reason, finding, seconds, memory)


def _words(error: Exception) -> str:
    """Return the message of an error. For an error that the user cannot correct, also say where in the program it was
    raised."""
    if is_expected(error):
        return explain(error)
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
    return f"{type(error).__name__}: {error} (in {', '.join(places)})"

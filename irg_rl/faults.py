"""Faults on purpose, for tests: a process kills itself, hangs, finds a full disk, and so on, at a named place and step.

The section `faults` of a recipe lists them (irg_rl/config/faults.py). `arm` puts them into an environment variable,
which all processes of a run inherit. The places call `at`. Without faults, `at` does nothing.

Each fault happens `times` times in a run, also if the run is resumed or an actor is started again. For this, a file is
made in the folder `faults` of the run each time, before the fault happens.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError

ALLOWED = "IRG_RL_FAULTS"
"""Name of the environment variable that must be 1 for a recipe to have faults."""
ARMED = "IRG_RL_ARMED_FAULTS"
"""Name of the environment variable that holds the faults of a run and its folder, as JSON."""
EXIT_CODE = 3
FOLDER = "faults"


def arm(run: Path, faults: Sequence[Mapping[str, Any]]) -> None:
    """Let the faults happen in this process and in all processes that it starts from now on. `run` is the folder of the
    run. An empty list disarms the faults of an earlier run. Raises InputError without the permission to let faults
    happen."""
    os.environ.pop(ARMED, None)
    if faults:
        require_permission()
        os.environ[ARMED] = json.dumps({"run": str(run.absolute()), "faults": [dict(fault) for fault in faults]})
    _armed.cache_clear()


def require_permission() -> None:
    """Raise InputError if the environment does not allow faults."""
    if os.environ.get(ALLOWED) != "1":
        raise InputError(
            f"faults: they happen on purpose and are for tests: set {ALLOWED}=1 in the environment to allow them, or "
            "leave the section out"
        )


def environment() -> dict[str, str]:
    """Return the environment variables that a process on another machine needs for its faults."""
    return {ARMED: os.environ[ARMED]} if ARMED in os.environ else {}


def at(where: str, step: int = 0, of: str = "", path: Path | None = None) -> None:
    """Let the faults happen that the recipe asks for at this place. `step` is the step that the place counts. `of` is
    the name of the stage or the number of the rank. `path` is what the place works on."""
    for number, (run, fault) in enumerate(_armed()):
        asked = fault["where"] == where and fault["step"] in (None, step) and fault["of"] in (None, of)
        if asked and _is_due(Path(run, FOLDER), number, fault["times"]):
            WHAT[fault["what"]](fault, path)


def happened(run: Path) -> int:
    """Return how many faults have happened in the run so far."""
    return len(list(Path(run, FOLDER).glob("*")))


@cache
def _armed() -> tuple[tuple[str, dict[str, Any]], ...]:
    told = os.environ.get(ARMED)
    if told is None:
        return ()
    found = json.loads(told)
    return tuple((found["run"], fault) for fault in found["faults"])


def _is_due(folder: Path, number: int, times: int) -> bool:
    """Return whether the fault has happened less than `times` times so far, and note that it happens now. The file is
    made in one step, so that of two processes only one gets the fault."""
    folder.mkdir(exist_ok=True)
    for count in range(times):
        try:
            (folder / f"{number}.{count}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


def _kill(fault: Mapping[str, Any], path: Path | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(fault: Mapping[str, Any], path: Path | None) -> None:
    os._exit(EXIT_CODE)


def _sleep(fault: Mapping[str, Any], path: Path | None) -> None:
    time.sleep(fault["seconds"])


def _out_of_memory(fault: Mapping[str, Any], path: Path | None) -> None:
    raise MemoryError("a fault on purpose")


def _disk_full(fault: Mapping[str, Any], path: Path | None) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _corrupt(fault: Mapping[str, Any], path: Path | None) -> None:
    """Change one bit in the middle of the largest file in a folder."""
    assert path is not None, "only places that have written a folder are asked to damage it"
    file = max(path.iterdir(), key=lambda one: one.stat().st_size)
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        byte = out.read(1)[0]
        out.seek(-1, os.SEEK_CUR)
        out.write(bytes([byte ^ 1]))


def _signal(fault: Mapping[str, Any], path: Path | None) -> None:
    os.kill(os.getpid(), signal.Signals[fault["signal"]])
    time.sleep(0.01)  # the handler runs between two instructions of Python


WHAT: dict[str, Callable[[Mapping[str, Any], Path | None], None]] = {
    "kill": _kill, "hang": _sleep, "exit": _exit, "oom": _out_of_memory, "disk_full": _disk_full, "corrupt": _corrupt,
    "signal": _signal, "slow": _sleep,
}  # fmt: skip

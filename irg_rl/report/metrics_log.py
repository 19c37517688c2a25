"""Writes and reads `metrics.jsonl`. It has one line per logged step: `{"stage", "step", "time", scalar: value, ...}`.

Every run writes this file. Lines are in the order in which the steps happened. When a run resumes, it first removes the
lines of all steps that it will repeat. So a resumed run and an uninterrupted run write the same file, except for
`time`.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from irg_rl.errors import InputError

METRICS = "metrics.jsonl"
"""Name of the file in a run folder."""
RESERVED = ("stage", "step", "time")


class MetricsLog:
    """A writer that appends lines to `metrics.jsonl` and flushes each line. Only one process may use it."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_broken_tail(path)
        self._file = path.open("a", encoding="utf-8")

    def append(self, stage: str, step: int, scalars: Mapping[str, float]) -> dict[str, float | None]:
        """Write one line and return its scalars as they were written. A value that is not finite becomes null. Raises
        ValueError if a scalar is named `stage`, `step` or `time`."""
        taken = [name for name in scalars if name in RESERVED]
        if taken:
            raise ValueError(f"a scalar cannot be called {taken[0]!r}: {', '.join(RESERVED)} are the line's own fields")
        values = {name: _plain(value) for name, value in scalars.items()}
        line = {"stage": stage, "step": int(step), "time": round(time.time(), 3)} | values
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        return values

    def rewind(self, stage: str, step: int) -> int:
        """Remove the lines of `stage` (for example "rl") with a larger step number than `step`. Also remove all lines
        of stages that began later than `stage`.

        Return the number of removed lines. If the file has no lines of `stage`, nothing is removed.
        """
        rows = read_metrics(self.path)
        first = next((i for i, row in enumerate(rows) if row["stage"] == stage), len(rows))
        before = {row["stage"] for row in rows[:first]}
        kept = [row for row in rows if row["stage"] in before or (row["stage"] == stage and row["step"] <= step)]
        if first == len(rows) or len(kept) == len(rows):
            return 0
        self._file.close()
        aside = self.path.with_name(self.path.name + ".tmp")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        return len(rows) - len(kept)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict]:
    """Return all complete lines of `metrics.jsonl`, one dict per line. If the last line was cut off because the process
    was killed, it is ignored. Any other broken line raises InputError."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number} is not JSON ({error.msg}): remove that line") from error
        if not isinstance(row, dict) or not isinstance(row.get("stage"), str) or not isinstance(row.get("step"), int):
            raise InputError(f"{path}, line {number} has no stage and step: remove that line")
        rows.append(row)
    return rows


def _plain(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _drop_broken_tail(path: Path) -> None:
    """Remove an incomplete last line, left by a killed process. Otherwise the next line would be appended to it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)

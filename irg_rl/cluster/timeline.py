"""When each actor of a run worked, and on what. The report draws it, so that one sees who waits for whom."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "timeline.jsonl"
KEPT_UPDATES = 20
"""The file has the intervals of at least so many updates, the newest ones, and of less than twice as many."""


@dataclass(frozen=True)
class Interval:
    """A piece of work. `actor` is for example `rollout 0`, `what` is the method that it called. The times are those of
    time.monotonic, in seconds."""

    actor: str
    what: str
    began: float
    ended: float


class Timeline:
    """The file `timeline.jsonl` of a run. It has one line for each piece of work of the last updates of RL."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._trimmed = False  # whether lines that an earlier process has written are gone

    def add(self, update: int, intervals: Iterable[Interval]) -> None:
        """Add the intervals of an update. The first call removes the lines of this update and of later ones. A run has
        written them before it was resumed. The first call and each KEPT_UPDATES-th update also remove the lines of old
        updates."""
        shift = time.time() - time.monotonic()  # a resumed run may be on a machine with another zero
        if not self._trimmed or update % KEPT_UPDATES == 0:
            self._trim(update)
            self._trimmed = True
        with self._path.open("a", encoding="utf-8") as out:
            for one in intervals:
                times = {"began": one.began + shift, "ended": one.ended + shift}
                out.write(json.dumps({"update": update, **asdict(one), **times}) + "\n")

    def _trim(self, update: int) -> None:
        """Keep only the lines of the last updates before this one."""
        if not self._path.exists():
            return
        old = self._path.read_text(encoding="utf-8").splitlines()
        aside = self._path.with_suffix(".tmp")
        kept = (f"{line}\n" for line in old if update - KEPT_UPDATES < _update_of(line) < update)
        aside.write_text("".join(kept), encoding="utf-8")
        aside.replace(self._path)


def _update_of(line: str) -> int:
    """Return the number of the update of a line. A line that is damaged counts as very old."""
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return -KEPT_UPDATES

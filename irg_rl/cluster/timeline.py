"""When each actor of a run worked, and on what. The report draws it, so that one sees who waits for whom."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "timeline.jsonl"
KEPT_UPDATES = 20
"""The file has the intervals of so many updates, the newest ones."""


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

    def add(self, update: int, intervals: Iterable[Interval]) -> None:
        """Add the intervals of an update. Lines of this update and of later ones, which a run has written before it was
        resumed, are removed, and so are those of old updates."""
        shift = time.time() - time.monotonic()  # a resumed run may be on a machine with another zero
        old = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in old if update - KEPT_UPDATES < _update_of(line) < update]
        new = [
            json.dumps({"update": update, **asdict(one), "began": one.began + shift, "ended": one.ended + shift})
            for one in intervals
        ]
        aside = self._path.with_suffix(".tmp")
        aside.write_text("".join(f"{line}\n" for line in [*kept, *new]), encoding="utf-8")
        aside.replace(self._path)


def _update_of(line: str) -> int:
    """Return the number of the update of a line. A line that is damaged counts as very old."""
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return -KEPT_UPDATES

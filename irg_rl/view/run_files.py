"""Reads the recipe, the stages and the metrics of a run folder. The run may be unfinished, and files may be damaged.

A file that has not changed since the last request is not read again. No reader here raises an error because of a
damaged file. It returns what can be read, and adds one line to `problems`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from irg_rl.errors import InputError
from irg_rl.evaluate.health import Points, series
from irg_rl.redact import redact, redact_text
from irg_rl.report.metrics_log import METRICS, read_metrics
from irg_rl.text_in import read_json, read_text
from irg_rl.view.sources import RECIPE, RunSource

Value = TypeVar("Value")
REMEMBERED = 512
"""Number of files whose content is kept in memory."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a damaged file can raise. InputError is a ValueError."""


class Remembered(Generic[Value]):
    """A function that reads a file and remembers the result until the file changes (its time or its size)."""

    def __init__(self, read: Callable[[Path], Value]) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int], Value]] = {}

    def __call__(self, path: Path) -> Value:
        about = path.stat()
        stamp = about.st_mtime_ns, about.st_size
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        value = self._read(path)
        self._known[path] = stamp, value
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return value


_metrics = Remembered(read_metrics)
_series = Remembered(lambda path: series(_metrics(path)))
_json = Remembered(lambda path: redact(read_json(path)))
_yaml = Remembered(lambda path: redact(yaml.safe_load(read_text(path))))


@dataclass
class RunFiles:
    """The files of one run, as one page needs them. `problems` has one line for each file that cannot be read."""

    source: RunSource
    problems: list[str] = field(default_factory=list)

    def tell(self, path: Path | str, error: Exception) -> None:
        """Add one line to `problems` that says why a file cannot be read."""
        first = redact_text(str(error).splitlines()[0] if str(error) else type(error).__name__)
        line = first if str(path) in first else f"{path}: {first}"
        if line not in self.problems:
            self.problems.append(line)

    def json(self, *parts: str) -> Any:
        """Return the content of a JSON file without secrets, or None if it is missing or damaged."""
        try:
            path = self.source.path(*parts)
            return _json(path) if path.is_file() else None
        except UNREADABLE as error:
            self.tell(self.source.folder.joinpath(*parts), error)
            return None

    def mapping(self, *parts: str) -> dict[str, Any]:
        """Return the content of a JSON file that has an object. Return an empty dict if it is missing or damaged."""
        found = self.json(*parts)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self.tell(self.source.folder.joinpath(*parts), InputError("expected an object, found something else"))
            return {}
        return found

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain data, without secrets. It is empty if the file is missing or damaged."""
        try:
            path = self.source.path(RECIPE)
            found = _yaml(path) if path.is_file() else {}
        except (*UNREADABLE, yaml.YAMLError) as error:
            self.tell(self.source.folder / RECIPE, error)
            return {}
        if not isinstance(found, dict):
            self.tell(self.source.folder / RECIPE, InputError("no mapping of settings"))
            return {}
        return found

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in the order in which they were written."""
        try:
            path = self.source.path(METRICS)
            return _metrics(path) if path.is_file() else []
        except UNREADABLE as error:
            self.tell(self.source.folder / METRICS, error)
            return []

    @property
    def series(self) -> dict[str, Points]:
        """The curves of all logged numbers, by `stage/name`."""
        try:
            path = self.source.path(METRICS)
            return _series(path) if path.is_file() else {}
        except UNREADABLE as error:
            self.tell(self.source.folder / METRICS, error)
            return {}

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Stage of the run -> facts about it, such as `seconds` and `done`. Entries of another form are left out."""
        return {name: entry for name, entry in self.mapping("stages.json").items() if isinstance(entry, dict)}

"""Keeps the answers of a judge: in memory, and, if a folder is given, on disk for other processes and later runs."""

import json
import os
import threading
import uuid
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError
from irg_rl.text_in import parse_json, read_text
from rewards.base import ScorerUnavailable


class AnswerCache:
    """Keeps scores in [0, 1] by a name that stands for everything that they depend on. At most `size` of them are in
    memory. With a folder, each one is also a small file. Failures are not kept. Several threads and processes may use
    one folder at the same time."""

    def __init__(self, size: int, folder: Path | None) -> None:
        self.size, self.folder = size, folder
        self._lock = threading.Lock()
        self._known: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of answers in memory."""
        return len(self._known)

    def get(self, name: str) -> float | None:
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        content = read_kept(self._path(name)) if self.folder is not None else None
        score = content.get("score") if isinstance(content, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            return None  # absent or damaged: the judge is asked again
        self._remember(name, float(score))
        return float(score)

    def put(self, name: str, score: float, question: str) -> None:
        """Keep a score. `question` is written beside it, for people who look into the folder."""
        self._remember(name, score)
        if self.folder is not None:
            keep(self._path(name), {"score": score, "question": question})

    def _remember(self, name: str, score: float) -> None:
        with self._lock:
            self._known[name] = score
            self._known.move_to_end(name)
            while len(self._known) > self.size:
                self._known.popitem(last=False)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name[:2] / f"{name}.json"


def read_kept(path: Path) -> Any:
    """Return the content of a file that `keep` has written, or None if there is no such file or it is damaged."""
    try:
        return parse_json(read_text(path), str(path))
    except InputError:
        return None


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file, whole or not at all. Its folder is made if it is missing. Raises ScorerUnavailable if it
    cannot be written."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")  # several machines may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise ScorerUnavailable(f"{path} cannot be written ({error.strerror or error}): name another folder") from error

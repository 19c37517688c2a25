"""Hashes of whole data files. They are kept in a file, so that a file that has not changed is read only once."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

READERS = 4
"""Number of files that are read at the same time. One thread hashes slower than a disk reads."""

MANY_BYTES = 10**10
"""From how many bytes on a line says that files are read. This takes seconds on a fast disk, minutes on a slow one."""


class FileDigests:
    """The sha256 of files, kept in the JSON file `path` (None: only in memory). A kept hash is used again if the file
    still has the same size and the same time of its last change, in nanoseconds. Several processes may use one `path`.
    `tell` gets a line before files are read that take long.
    """

    def __init__(self, path: Path | None = None, tell: Callable[[str], None] = lambda line: None) -> None:
        self.path, self.tell = path, tell
        self._known: dict[str, str] = {}

    def of(self, files: Sequence[Path]) -> list[str]:
        """Return the sha256 of each file, in hex digits."""
        self._read()
        facts = [file.stat() for file in files]
        names = [f"{file.absolute()} {fact.st_size} {fact.st_mtime_ns}" for file, fact in zip(files, facts)]
        new = {name: file for name, file in zip(names, files) if name not in self._known}
        size = sum(fact.st_size for name, fact in zip(names, facts) if name in new)
        if size >= MANY_BYTES:
            self.tell(f"{files[0].parent}: reading {size / 1e9:.0f} GB once, to notice later if data have changed")
        with ThreadPoolExecutor(READERS) as readers:
            self._known.update(zip(new, readers.map(_sha256, new.values())))
        if new and self.path is not None:
            self._write(self.path)
        return [self._known[name] for name in names]

    def _read(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        with suppress(ValueError, AttributeError):  # damaged: all files are read again
            kept = json.loads(self.path.read_bytes())
            self._known |= {str(name): digest for name, digest in kept.items() if isinstance(digest, str)}

    def _write(self, path: Path) -> None:
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        aside.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        os.replace(aside, path)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

"""Rows of one learning mode from a folder of parquet files, in a shuffled order that a cursor can resume.

Row groups are shuffled per epoch and rows within a group; both orders are functions of (seed, epoch, group), so the
cursor (epoch, group, row) is the whole state. One row group is in memory at a time.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft.rows import BrokenRow, Part, parse_row


class DataError(ValueError):
    """Training data that is missing or unreadable; says which file and what to do."""


@dataclass
class Rejections:
    """Broken rows: counted, and listed in `rejected.jsonl`, each once."""

    path: Path | None = None
    seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, file: Path, row: int, reason: str) -> None:
        if (str(file), row) in self.seen:
            return
        self.seen.add((str(file), row))
        if self.path is not None:
            with self.path.open("a") as out:
                out.write(json.dumps({"file": str(file), "row": row, "reason": reason}) + "\n")


class RowSource:
    """An endless, resumable stream of parsed rows from `folder` (all `*.parquet`, column `conversation`).

    The first `hold_out` rows of the first row group are kept for validation and never drawn. Raises DataError when the
    folder holds no readable file, or when a whole epoch gave no usable row.
    """

    def __init__(self, folder: Path, seed: int, rejections: Rejections, hold_out: int = 0):
        self.folder, self.seed, self.rejections, self.hold_out = folder, seed, rejections, hold_out
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise DataError(f"{folder}: no parquet files; make rows with the world stage or point sft.data at your own")
        self.groups: list[tuple[Path, int]] = []
        digest = hashlib.sha256()
        for file in files:
            metadata = _open(file).metadata
            self.groups += [(file, g) for g in range(metadata.num_row_groups)]
            digest.update(f"{file.name}:{metadata.num_rows}:{file.stat().st_size}".encode())
            digest.update(file.read_bytes()[-4096:])
        if not self.groups:
            raise DataError(f"{folder}: the parquet files hold no rows")
        self.fingerprint = digest.hexdigest()[:16]
        self.epoch = self.group = self.row = 0
        self._loaded: tuple[int, int] | None = None
        self._rows: list[tuple[int, str]] = []
        self._usable = 0

    def state(self) -> dict:
        return {"epoch": self.epoch, "group": self.group, "row": self.row, "fingerprint": self.fingerprint}

    def load_state(self, state: dict) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise DataError(f"{self.folder}: the rows changed since the checkpoint; resume with the same data")
        self.epoch, self.group, self.row = state["epoch"], state["group"], state["row"]

    def draw(self) -> tuple[Part, ...]:
        """The next usable row."""
        while True:
            self._load()
            while self.row < len(self._rows):
                index, conversation = self._rows[self.row]
                self.row += 1
                try:
                    parts = parse_row(conversation)
                except BrokenRow as error:
                    self.rejections.add(self._file(), index, str(error))
                    continue
                self._usable += 1
                return parts
            self._advance()

    def held_out(self) -> list[tuple[Part, ...]]:
        """The rows kept for validation, in file order; broken ones are rejected like any other."""
        file, group = self.groups[0]
        rows = []
        for index, conversation in enumerate(_read_group(file, group)[: self.hold_out]):
            try:
                rows.append(parse_row(conversation))
            except BrokenRow as error:
                self.rejections.add(file, index, str(error))
        return rows

    def _file(self) -> Path:
        return self.groups[self._order(self.epoch)[self.group]][0]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))

    def _load(self) -> None:
        if self._loaded == (self.epoch, self.group):
            return
        chosen = int(self._order(self.epoch)[self.group])
        file, group = self.groups[chosen]
        column = _read_group(file, group)
        shuffle = np.random.default_rng([self.seed, self.epoch, chosen]).permutation(len(column))
        first = self.hold_out if chosen == 0 else 0
        self._rows = [(int(i), column[int(i)]) for i in shuffle if i >= first]
        self._loaded = (self.epoch, self.group)

    def _advance(self) -> None:
        self.group, self.row = self.group + 1, 0
        if self.group == len(self.groups):
            if not self._usable:
                raise DataError(f"{self.folder}: every row was rejected; see rejected.jsonl for the reasons")
            self.epoch, self.group, self._usable = self.epoch + 1, 0, 0


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}); write it again or remove it") from error


def _read_group(file: Path, group: int) -> list[str]:
    try:
        return _open(file).read_row_group(group, columns=["conversation"]).column(0).to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError, IndexError) as error:
        raise DataError(f"{file}: row group {group} has no readable `conversation` column ({error})") from error

"""Read the rows of one learning mode (one kind of training row) from a folder of parquet files. The order of the rows
is shuffled. After an interruption, reading can continue at the same row.

A parquet file consists of row groups (blocks of rows). In every epoch, the row groups are shuffled, and so are the rows
in each group. The order of the groups depends only on (seed, epoch). The order of the rows in a group depends only on
(seed, epoch, group). So a checkpoint must save only the position (epoch, group, row) and the number of usable rows
found in this epoch so far. Only one row group is in memory at a time, in the form in which the file has it.

The draws do not depend on whether the pixels of an image can be decoded, because each rank decodes only the images of
its own packs, and all ranks must draw the same rows.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from irg_rl.errors import UserError
from sft.digests import FileDigests
from sft.rows import BrokenRow, Part, decode_row, parse_row

RowPlace = tuple[Path, int, int]
"""Where a row stands: (parquet file, number of the row group, number of the row within its group)."""

ENOUGH_ROWS = 1000
"""From so many rows of a folder on, the share of its rejected rows is taken as that of the whole folder."""


class DataError(UserError, ValueError):
    """Raised if training data is missing or unreadable. The message names the file and says what to do."""


@dataclass
class Rejections:
    """The rows that cannot be trained on. They are listed in the file `path` (`rejected.jsonl`), each only once: a row
    is not listed again in a later epoch or after a resume. The field `row` of an entry is the number of the row within
    its row group (a block of rows in a parquet file).

    All ranks draw the same rows, so the first one lists for all what is broken when it is drawn. The others have
    `is_first` = False. They list only rows of their own packs that turn out to be broken when they are decoded.

    `largest_share` is the budget: if more than this share of the rows of a folder is rejected, `require_budget` raises
    DataError. What is left is then no longer the data that the user wanted to train on.

    Each of the `ranks` ranks decodes its own packs only. So a rank also compares the rows that it could not decode with
    its own part of the rows."""

    path: Path | None = None
    is_first: bool = True
    largest_share: float = 1.0
    ranks: int = 1
    seen: set[tuple[str, int, int]] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self):
        if self.path is None or not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        for line in text.split("\n"):
            with suppress(ValueError, KeyError, TypeError):  # a line may be cut off, if the disk was full
                entry = json.loads(line)
                self.seen.add((entry["file"], entry["group"], entry["row"]))
        if self.is_first and text and not text.endswith("\n"):
            with self.path.open("a") as out:
                out.write("\n")

    def add(self, place: RowPlace, reason: str, decoded: bool = False) -> None:
        """Add a row. `decoded` says that it was found to be broken when its images were decoded."""
        file, group, row = str(place[0].absolute()), *place[1:]  # a run may be resumed from another folder
        with self._lock:  # rows are drawn and decoded in different threads
            if (file, group, row) in self.seen:
                return
            self.seen.add((file, group, row))
            if self.path is None or not (self.is_first or decoded):
                return
            with self.path.open("a") as out:
                out.write(json.dumps({"file": file, "group": group, "row": row, "reason": reason}) + "\n")

    def listed(self) -> set[tuple[str, int, int]]:
        """Return a copy of the rows that are known to be rejected, as (file, row group, row)."""
        with self._lock:
            return set(self.seen)

    def require_budget(self, folder: Path, rejected: int, drawn: int, rows: int) -> None:
        """Raise DataError if too many rows of a folder are rejected. `rejected` is the number of different rows that a
        stage has rejected so far, `drawn` the number of those it has looked at, and `rows` the number of rows of the
        folder. The share is that of the rows looked at. As long as these are fewer than ENOUGH_ROWS, it is that of
        ENOUGH_ROWS rows, or of all rows if there are fewer. Otherwise the first broken row of a large folder would end
        the stage."""
        if rejected > self.largest_share * max(drawn, min(ENOUGH_ROWS, rows)):
            named = "" if self.path is None else f"; {self.path} has the reasons"
            raise DataError(
                f"{folder}: {rejected} rows are rejected after {drawn} of {rows} were read, more than the share of "
                f"{self.largest_share:.3g} that sft.rejected_share allows{named}: mend or remove these rows and "
                "start a new run, or set a larger share in the recipe.yaml of this run and resume it"
            )


class RowSource:
    """An endless stream of parsed training rows. Its position can be saved and restored. The rows come from the column
    `conversation` of all `*.parquet` files in `folder`.

    A parquet file consists of row groups (blocks of rows). The first `hold_out` rows of the first row group are kept
    for validation and are never drawn. `digests` keeps the hashes of the files.

    Raises DataError in three cases: the folder has no readable file, a whole epoch gave no usable row, or more rows are
    broken than the budget of `rejections` allows.
    """

    def __init__(
        self, folder: Path, seed: int, rejections: Rejections, hold_out: int = 0, digests: FileDigests | None = None
    ):
        self.folder, self.seed, self.rejections, self.hold_out = folder, seed, rejections, hold_out
        self.digests = digests or FileDigests()
        self.files = files = sorted(folder.glob("*.parquet"))
        if not files:
            raise DataError(
                f"{folder}: no parquet files; set sft.data to the folder that holds one folder of parquet per mode"
            )
        self.groups: list[tuple[Path, int]] = []
        self.rows: dict[tuple[Path, int], int] = {}  # row group -> its number of rows
        for file in files:
            metadata = _open(file).metadata
            self.groups += [(file, g) for g in range(metadata.num_row_groups)]
            self.rows |= {(file, g): metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)}
        if not self.groups:
            raise DataError(f"{folder}: the parquet files hold no rows")
        self.epoch = self.group = self.row = 0
        self._loaded: tuple[int, int] | None = None
        self._order_of_rows: list[int] = []
        self._column: pa.ChunkedArray = pa.chunked_array([], pa.null())
        self._usable = 0
        self.last: RowPlace = (*self.groups[0], 0)
        """Where the row stands that `draw` returned last."""
        self._rejected = set[RowPlace]()  # when they were drawn, or before a resume, since the first epoch began
        self._not_decoded = set[RowPlace]()  # by this rank, since it started

    @cached_property
    def fingerprint(self) -> str:
        """A hash that identifies the data: that of the names and whole contents of all files. The hash of a file is not
        computed again as long as its size and the time of its last change stay the same (see FileDigests)."""
        try:
            digests = self.digests.of(self.files)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror}); write it again") from error
        named = [f"{file.name}:{digest}\n" for file, digest in zip(self.files, digests)]
        return hashlib.sha256("".join(named).encode()).hexdigest()[:16]

    @property
    def drawn(self) -> int:
        """Number of different rows that have been looked at since the first epoch began."""
        if self.epoch:
            return sum(self.rows.values())
        order = self._order(0)[: self.group]
        return sum(self.rows[self.groups[chosen]] for chosen in order) + self.row

    def state(self) -> dict:
        cursor = {"epoch": self.epoch, "group": self.group, "row": self.row, "usable": self._usable}
        return {**cursor, "fingerprint": self.fingerprint}

    def load_state(self, state: dict) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise DataError(f"{self.folder}: the rows changed since the checkpoint; resume with the same data")
        self.epoch, self.group, self.row = state["epoch"], state["group"], state["row"]
        self._usable = state["usable"]
        self._rejected |= self._rejected_before()

    def draw(self) -> tuple[Part, ...]:
        """Return the texts and images of the next row that can be trained on. Broken rows before this row are skipped
        and added to `rejections`."""
        while True:
            self._load()
            while self.row < len(self._order_of_rows):
                index = self._order_of_rows[self.row]
                self.row += 1
                self.last = (*self._place(), index)
                try:
                    parts = parse_row(self._column[index].as_py())
                except BrokenRow as error:
                    self.reject(self.last, str(error))
                    continue
                self._usable += 1
                return parts
            self._advance()

    def reject(self, place: RowPlace, reason: str, decoded: bool = False) -> None:
        """Add a row to the list of rejected rows. `decoded` says that it was found to be broken when its images were
        decoded. Raises DataError if too many rows of the folder are rejected."""
        (self._not_decoded if decoded else self._rejected).add(place)
        self.rejections.add(place, reason, decoded)
        all_rows, ranks = sum(self.rows.values()), self.rejections.ranks
        self.rejections.require_budget(self.folder, len(self._rejected | self._not_decoded), self.drawn, all_rows)
        if ranks > 1:
            self.rejections.require_budget(self.folder, len(self._not_decoded), self.drawn // ranks, all_rows)

    def reject_last(self, reason: str) -> None:
        """Add the row that `draw` returned last to the list of rejected rows. The caller uses this method if it cannot
        use the row, for example because the row is too long."""
        self.reject(self.last, reason)
        self._usable -= 1

    def held_out(self) -> list[tuple[Part, ...]]:
        """Return the rows that are kept for validation, in the order of the file. Each row is a tuple of texts and
        images, whose pixels are decoded. Broken rows are left out and added to the rejected rows, as in training."""
        file, group = self.groups[0]
        rows = []
        for index, conversation in enumerate(_read_group(file, group)[: self.hold_out].to_pylist()):
            try:
                parts = parse_row(conversation)
                decode_row(parts)
            except BrokenRow as error:
                self.reject((file, group, index), str(error))
                continue
            rows.append(parts)
        return rows

    def _rejected_before(self) -> set[RowPlace]:
        """Return the listed rejected rows that this source has looked at since the first epoch began. Rows that another
        stage has rejected may still lie ahead."""
        files = {str(file.absolute()): file for file in self.files}
        listed = {(files[file], group, row) for file, group, row in self.rejections.listed() if file in files}
        if self.epoch:
            return listed
        order = [int(chosen) for chosen in self._order(0)]
        passed, chosen = {self.groups[before] for before in order[: self.group]}, order[self.group]
        current = self.groups[chosen]
        rows = set(self._rows_in_order(0, chosen, self.rows[current])[: self.row])
        return {place for place in listed if place[:2] in passed or (place[:2] == current and place[2] in rows)}

    def _place(self) -> tuple[Path, int]:
        return self.groups[self._order(self.epoch)[self.group]]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))

    def _rows_in_order(self, epoch: int, chosen: int, rows: int) -> list[int]:
        """Return the numbers of the rows of a row group in the order in which they are drawn, without those that are
        kept for validation. `chosen` is the number of the group in `groups`, and `rows` its number of rows."""
        shuffle = np.random.default_rng([self.seed, epoch, chosen]).permutation(rows)
        first = self.hold_out if chosen == 0 else 0
        return [int(i) for i in shuffle if i >= first]

    def _load(self) -> None:
        if self._loaded == (self.epoch, self.group):
            return
        chosen = int(self._order(self.epoch)[self.group])
        file, group = self.groups[chosen]
        self._column = _read_group(file, group)
        self._order_of_rows = self._rows_in_order(self.epoch, chosen, len(self._column))
        self._loaded = (self.epoch, self.group)

    def _advance(self) -> None:
        self.group, self.row = self.group + 1, 0
        if self.group == len(self.groups):
            if not self._usable:
                kept = f" ({self.hold_out} are kept for validation)" if self.hold_out else ""
                raise DataError(
                    f"{self.folder}: an epoch has no usable row{kept}; add rows, or mend those in rejected.jsonl"
                )
            self.epoch, self.group, self._usable = self.epoch + 1, 0, 0


def stored_rows(folder: Path) -> Iterator[tuple[Path, int, int, bytes | str | None]]:
    """Yield (file, row group, number of the row in its group, conversation) for every row in the parquet files of a
    folder, in order. Raises DataError if a file cannot be read."""
    for file in sorted(folder.glob("*.parquet")):
        for group in range(_open(file).metadata.num_row_groups):
            for row, conversation in enumerate(_read_group(file, group)):
                yield file, group, row, conversation.as_py()


def count_stored_rows(folder: Path) -> int:
    """Return the number of rows in the parquet files of a folder, without reading them."""
    return sum(_open(file).metadata.num_rows for file in sorted(folder.glob("*.parquet")))


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}); write it again or remove it") from error


def _read_group(file: Path, group: int) -> pa.ChunkedArray:
    """Return the column `conversation` of one row group (a block of rows in a parquet file), with one entry per row. It
    is not converted to a list of Python objects, which would need the memory twice. Texts are returned as bytes. If the
    column were read as text, one text that is not UTF-8 would raise an error and end the run. With bytes, only the row
    with the bad text is rejected later."""
    try:
        column = _open(file).read_row_group(group, columns=["conversation"]).column(0)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        return column.cast(pa.large_binary()) if is_text else column
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise DataError(f"{file}: row group {group} has no readable `conversation` column ({error})") from error

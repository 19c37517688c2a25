"""A table with numpy arrays as columns, and functions that read and write such tables as parquet files. A study stores
its measurements in these tables and makes its figures from them.

Shape letter: N rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from irg_rl.errors import InputError

FrameRow = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """A table with columns of equal length. A missing value is None, or nan in a column of numbers."""

    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, table: pa.Table) -> "Frame":
        return cls({name: table[name].to_numpy() for name in table.column_names})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def values(self, name: str) -> list:
        """Return the distinct values of a column, in order of first appearance."""
        return list(dict.fromkeys(self[name].tolist()))

    def keys(self, *names: str) -> list[tuple]:
        """Return a list with one tuple per row of the table. The tuple has the values of this row in the columns
        `names`."""
        return list(zip(*(self[name].tolist() for name in names)))

    def where(self, mask: np.ndarray | None = None, **equal: Any) -> "Frame":
        """Return a new table with the selected rows. A row is selected if `mask` is True for it, and if each column
        given as a keyword argument has the given value. For example, `where(turn=1)` selects the rows with the value 1
        in the column `turn`. If `mask` is None, only the keyword arguments select the rows."""
        chosen = np.ones(len(self), bool) if mask is None else mask.astype(bool)
        for name, value in equal.items():
            chosen = chosen & (self[name] == value)
        return Frame({name: column[chosen] for name, column in self.columns.items()})

    def groups(self, *names: str) -> Iterator[tuple[tuple, "Frame"]]:
        """Group the rows by the values of the named columns. Yield pairs (values, table with the rows that have these
        values), in order of first appearance."""
        rows: dict[tuple, list[int]] = {}
        for row, key in enumerate(self.keys(*names)):
            rows.setdefault(key, []).append(row)
        for key, own in rows.items():
            index = np.array(own)
            yield key, Frame({name: column[index] for name, column in self.columns.items()})

    def grid(self, name: str, rows: Sequence[str], column: str) -> tuple[np.ndarray, list[tuple]]:
        """Arrange the values of the column `name` as a two-dimensional array, for example [trajectory, turn]. The first
        axis has one entry per distinct combination of values in the columns `rows`, in order of first appearance. The
        second axis has one entry per distinct value of the column `column`, in ascending order. Return the array and
        the list of combinations. Raises ValueError if an element does not come from exactly one row of this table."""
        keys = self.keys(*rows)
        lines = {key: line for line, key in enumerate(dict.fromkeys(keys))}
        places = {value: place for place, value in enumerate(sorted(self.values(column)))}
        if len(self) != len(lines) * len(places):
            raise ValueError(f"{len(self)} rows do not fill {len(lines)} lines of {len(places)} values of {column!r}")
        table = np.empty((len(lines), len(places)), dtype=self[name].dtype)
        filled = np.zeros(table.shape, bool)
        index = np.array([lines[key] for key in keys]), np.array([places[value] for value in self[column].tolist()])
        table[index], filled[index] = self[name], True
        if not filled.all():
            raise ValueError(f"column {column!r}: a place of {tuple(rows)} has no row")
        return table, list(lines)


def write_rows(path: Path, rows: Sequence[FrameRow], about: Mapping[str, str]) -> None:
    """Write rows of a table to a parquet file. The file appears under its name only when it is complete. `about` is
    stored as the metadata of the file, for example the commit of the code."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    write_table(path, table, about)


def write_table(path: Path, table: pa.Table, about: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    pq.write_table(table.replace_schema_metadata(dict(about)), aside)
    aside.replace(path)


def read_table(path: Path) -> pa.Table:
    """Read a parquet file. Raises InputError if the file is damaged."""
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        told = f"{path} cannot be read as parquet ({error}); delete it, and the study measures it again"
        raise InputError(told) from error


def with_commit(table: pa.Table) -> pa.Table:
    """Return a copy of the table with the additional column `commit`: the git commit of the code that measured the
    rows. The commit is taken from the metadata that was stored with the table."""
    commit = table.schema.metadata.get(b"commit", b"unknown").decode()
    return table.append_column("commit", pa.array([commit] * len(table), pa.string()))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables into one. If a column exists only in some of the tables, the rows of the other tables get
    missing values in it."""
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")

"""A table as numpy columns: cells write it and figures read it.

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
    """Columns of equal length. A missing value is None, or nan in a column of numbers."""

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
        """The different values of a column, in order of appearance."""
        return list(dict.fromkeys(self[name].tolist()))

    def keys(self, *names: str) -> list[tuple]:
        """The values of these columns, row by row."""
        return list(zip(*(self[name].tolist() for name in names)))

    def where(self, mask: np.ndarray | None = None, **equal: Any) -> "Frame":
        """The rows in `mask` whose columns have these values."""
        chosen = np.ones(len(self), bool) if mask is None else mask.astype(bool)
        for name, value in equal.items():
            chosen = chosen & (self[name] == value)
        return Frame({name: column[chosen] for name, column in self.columns.items()})

    def groups(self, *names: str) -> Iterator[tuple[tuple, "Frame"]]:
        """The rows of every combination of values that occurs, in order of appearance."""
        rows: dict[tuple, list[int]] = {}
        for row, key in enumerate(self.keys(*names)):
            rows.setdefault(key, []).append(row)
        for key, own in rows.items():
            index = np.array(own)
            yield key, Frame({name: column[index] for name, column in self.columns.items()})

    def grid(self, name: str, rows: Sequence[str], column: str) -> tuple[np.ndarray, list[tuple]]:
        """A column as a table [trajectory, turn]: one line per combination of `rows`, in order of appearance, one
        position per value of `column`, ascending. ValueError if positions are missing or filled twice."""
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
    """Write a parquet file, complete or not at all. `about` becomes its metadata."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    write_table(path, table, about)


def write_table(path: Path, table: pa.Table, about: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    pq.write_table(table.replace_schema_metadata(dict(about)), aside)
    aside.replace(path)


def read_table(path: Path) -> pa.Table:
    """Read a parquet file. InputError if it is damaged."""
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        told = f"{path} cannot be read as parquet ({error}); delete it, and the study measures it again"
        raise InputError(told) from error


def with_commit(table: pa.Table) -> pa.Table:
    """The rows of a cell with a column `commit`, which is in the metadata."""
    commit = table.schema.metadata.get(b"commit", b"unknown").decode()
    return table.append_column("commit", pa.array([commit] * len(table), pa.string()))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables. Columns that a table lacks are empty there."""
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")

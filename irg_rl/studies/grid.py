"""A grid whose cells are measured once: one parquet file per finished cell, named by everything that its rows depend
on.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from irg_rl.errors import InputError
from irg_rl.studies.bench import Tick
from irg_rl.studies.frame import Frame, joined, read_table, with_commit, write_rows, write_table
from irg_rl.studies.study import Cell, Study

CELLS = "cells"
RESULTS = "results.parquet"


def cell_file(folder: Path, study: Study, cell: Cell) -> Path:
    return folder / CELLS / f"{cell_name(study, cell)}.parquet"


def cell_name(study: Study, cell: Cell) -> str:
    """A readable name that differs for cells that differ in anything."""
    words = re.sub(r"[^a-z0-9.]+", "-", "-".join(map(str, cell.at.values())).lower()).strip("-.")
    return f"{words[:60]}-{cell.digest(study.name)}"


def missing(folder: Path, study: Study) -> list[Cell]:
    """The cells that are not finished."""
    return [cell for cell in study.cells() if not cell_file(folder, study, cell).is_file()]


def work_through(folder: Path, study: Study, progress: Callable[[int, str], None]) -> None:
    """Measure the unfinished cells. `progress(units, cell)` is called for all finished work. Work that a cell turned
    out not to need counts as finished at its end."""
    for cell in missing(folder, study):
        done = 0

        def tick(units: int, cell: Cell = cell) -> None:
            nonlocal done
            units = min(units, cell.work - done)
            done += units
            if units:
                progress(units, cell.title)

        finish(folder, study, cell, tick)
        tick(cell.work - done)


def finish(folder: Path, study: Study, cell: Cell, tick: Tick) -> None:
    """Measure one cell and write it."""
    rows = [cell.at | row for row in study.measure(cell, tick)]
    about = {"study": study.name, "cell": cell.title, "commit": study.bench.commit}
    write_rows(cell_file(folder, study, cell), rows, about)


def results(folder: Path, study: Study, about: Mapping[str, str]) -> Frame:
    """All cells as one table, with the commit that measured each row. Also written to `results.parquet`."""
    tables = [read_table(cell_file(folder, study, cell)) for cell in study.cells()]
    tables = [with_commit(table) for table in tables if table.num_rows]
    if not tables:
        raise InputError(f"{folder}: no cell of {study.name} has anything to show for these prompts: take more of them")
    table = joined(tables)
    write_table(folder / RESULTS, table, about)
    return Frame.of(table)

"""Measure a study and store the results on disk. A study is a grid of cells; a cell is one combination of settings that
is measured. Each cell is measured once and saved as one parquet file. The file name contains a hash of everything that
affects the results of the cell."""

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
    """Return a readable file name, without its ending, for the results of a cell (combination of settings). Cells that
    differ in any setting or input have different names."""
    words = re.sub(r"[^a-z0-9.]+", "-", "-".join(map(str, cell.at.values())).lower()).strip("-.")
    return f"{words[:60]}-{cell.digest(study.name)}"


def missing(folder: Path, study: Study) -> list[Cell]:
    """Return the cells (combinations of settings) that are not measured yet, that is, the cells without a result file
    in `folder`."""
    return [cell for cell in study.cells() if not cell_file(folder, study, cell).is_file()]


def work_through(folder: Path, study: Study, progress: Callable[[int, str], None]) -> None:
    """Measure all cells (combinations of settings) that are not measured yet. To report progress, the function
    `progress` is called again and again with two arguments: the number of work units (for example images) that have
    just been finished, and the title of the cell. If a cell needs fewer units than planned, the missing ones are
    reported as finished when the cell ends."""
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
    """Measure one cell (combination of settings) and save its results as a parquet file inside `folder`. To report
    progress, `tick(units)` is called with the number of work units that have just been finished."""
    rows = [cell.at | row for row in study.measure(cell, tick)]
    about = {"study": study.name, "cell": cell.title, "commit": study.bench.commit}
    write_rows(cell_file(folder, study, cell), rows, about)


def results(folder: Path, study: Study, about: Mapping[str, str]) -> Frame:
    """Join the results of all cells (combinations of settings) into one table. An extra column has the commit of the
    code that measured each row. Return the table, and also write it to `results.parquet` in `folder`. `about` is stored
    as the metadata of the file. Raises InputError if no cell has any rows."""
    tables = [read_table(cell_file(folder, study, cell)) for cell in study.cells()]
    tables = [with_commit(table) for table in tables if table.num_rows]
    if not tables:
        raise InputError(f"{folder}: no cell of {study.name} has anything to show for these prompts: take more of them")
    table = joined(tables)
    write_table(folder / RESULTS, table, about)
    return Frame.of(table)

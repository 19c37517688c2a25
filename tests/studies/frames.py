"""Rows of cells as `grid.results` reads them."""

from irg_rl.studies.frame import Frame, read_table, with_commit, write_rows

COMMIT = "0123456789ab"


def frame_of(rows, folder) -> Frame:
    write_rows(folder / "rows.parquet", rows, {"commit": COMMIT})
    return Frame.of(with_commit(read_table(folder / "rows.parquet")))


def measured(study, folder) -> Frame:
    rows = [cell.at | row for cell in study.cells() for row in study.measure(cell, lambda units: None)]
    return frame_of(rows, folder)

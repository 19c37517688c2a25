"""Tables of studies: what is missing is seen, and no row loses its place."""

import numpy as np
import pytest

from irg_rl.errors import InputError
from irg_rl.studies.frame import Frame, joined, read_table, write_rows

ROWS = [{"who": who, "turn": turn, "score": turn / 4} for who in "ba" for turn in (2, 1)]


@pytest.fixture
def frame(tmp_path) -> Frame:
    write_rows(tmp_path / "x" / "rows.parquet", ROWS, {"study": "x"})
    return Frame.of(read_table(tmp_path / "x" / "rows.parquet"))


def test_a_column_becomes_a_grid_of_trajectories_and_turns(frame):
    table, lines = frame.grid("score", ("who",), "turn")
    assert lines == [("b",), ("a",)] and table.tolist() == [[0.25, 0.5], [0.25, 0.5]]


def test_a_grid_with_a_hole_is_refused(frame):
    with pytest.raises(ValueError, match="3 rows do not fill 2 lines of 2 values of 'turn'"):
        frame.where(np.array([1, 1, 1, 0])).grid("score", ("who",), "turn")


def test_rows_are_chosen_and_grouped_in_order(frame):
    assert len(frame.where(who="a")) == 2 and frame.values("who") == ["b", "a"]
    assert [(key, own["turn"].tolist()) for key, own in frame.groups("who")] == [(("b",), [2, 1]), (("a",), [2, 1])]


def test_cells_with_other_columns_are_joined(tmp_path):
    for name, row in (("one", {"a": 1, "b": 0.5}), ("two", {"a": 2, "c": "x"})):
        write_rows(tmp_path / name, [row], {})
    table = Frame.of(joined([read_table(tmp_path / name) for name in ("one", "two")]))
    assert table["a"].tolist() == [1, 2] and table["b"][0] == 0.5 and np.isnan(table["b"][1])


def test_a_damaged_cell_says_what_to_do(tmp_path):
    (tmp_path / "cell.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="delete it, and the study measures it again"):
        read_table(tmp_path / "cell.parquet")

"""A finished cell is never measured again, and another setting is another cell."""

from dataclasses import replace

import pytest

from irg_rl.studies import grid
from irg_rl.studies.settings import TurnsSettings
from irg_rl.studies.study import Cell, Findings, Study


class Counting(Study[TurnsSettings]):
    """Two cells, whose measuring can break."""

    name = "counting"
    question = "?"
    settings_type = TurnsSettings
    broken = False

    def cells(self) -> list[Cell]:
        return [Cell({"place": place}, 4, {"turns": self.settings.turns}) for place in ("A b", "c")]

    def measure(self, cell, tick):
        if cell.at["place"] == "c" and self.broken:
            raise ZeroDivisionError
        tick(3)
        return [{"value": len(cell.at["place"])}]

    def findings(self, frame):
        return Findings("", [], [])


@pytest.fixture
def study(bench) -> Counting:
    return Counting(bench, TurnsSettings())


def test_a_study_goes_on_with_the_cell_at_which_it_was_stopped(study, tmp_path):
    study.broken, told = True, []
    with pytest.raises(ZeroDivisionError):
        grid.work_through(tmp_path, study, lambda units, cell: told.append((units, cell)))
    assert [cell.at["place"] for cell in grid.missing(tmp_path, study)] == ["c"]
    study.broken = False
    grid.work_through(tmp_path, study, lambda units, cell: told.append((units, cell)))
    assert told == [(3, "place A b"), (1, "place A b"), (3, "place c"), (1, "place c")]
    grid.work_through(tmp_path, study, lambda units, cell: told.append((units, cell)))
    assert len(told) == 4 and not grid.missing(tmp_path, study)


def test_results_are_the_cells_with_their_places(study, tmp_path):
    grid.work_through(tmp_path, study, lambda units, cell: None)
    frame = grid.results(tmp_path, study, {"commit": "x"})
    assert frame["place"].tolist() == ["A b", "c"] and frame["value"].tolist() == [3, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cells", "results.parquet"]


def test_what_rows_depend_on_names_their_file(study, bench, tmp_path):
    grid.work_through(tmp_path, study, lambda units, cell: None)
    other = Counting(bench, TurnsSettings(turns=3))
    assert len(grid.missing(tmp_path, other)) == 2 and not grid.missing(tmp_path, study)


def test_other_prompts_and_other_sampling_are_other_cells(study, bench):
    (subject,) = bench.subjects
    fewer = replace(bench, prompts=bench.prompts[:2])
    coarser = replace(bench, subjects=[replace(subject, sampling=subject.sampling.model_copy(update={"points": 2}))])
    depends = [Counting(b, study.settings).depends("tiny") for b in (bench, fewer, coarser)]
    assert depends[0] != depends[1] and depends[0] != depends[2]
    assert depends[0] == Counting(replace(bench, commit="other"), study.settings).depends("tiny")

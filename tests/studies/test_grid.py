"""A finished cell is never measured again, and another setting is another cell."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from irg_rl.config import changed_recipe
from irg_rl.studies import grid
from irg_rl.studies.settings import TurnsSettings
from irg_rl.studies.study import Cell, Findings, Study
from tests.studies.frames import COMMIT


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
        return [{"value": len(cell.at["place"]), "prompt": cell.at["place"]}]

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


def test_a_cell_depends_on_prompts_seed_judges_device_and_sampling_but_not_on_the_commit(study, bench):
    (subject,) = bench.subjects

    def depends(**changes):
        return Counting(replace(bench, **changes), study.settings).depends("tiny")

    def subjects(**changes):
        return {"subjects": [replace(subject, **changes)]}

    def recipe(changes):
        return subjects(recipe=changed_recipe(subject.recipe, changes, "the test"))

    coarser = subject.sampling.model_copy(update={"points": 2})
    others = [
        {}, {"prompts": bench.prompts[:2]}, subjects(sampling=coarser), subjects(device="cuda"),
        subjects(dtype=torch.bfloat16), recipe({"evaluation.seed": 5}), recipe({"rewards.combine": "zscore_sum"}),
        recipe({"evaluation.guidance.text_scale": 2.0}),
    ]  # fmt: skip
    found = [depends(**changes) for changes in others]
    assert all(one != two for one, two in combinations(found, 2))
    assert depends(commit="other") == found[0] == depends(**recipe({"evaluation.batch_size": 3}))


def test_every_row_and_figure_says_which_commits_measured_it(study, bench, tmp_path):
    study.broken = True
    with pytest.raises(ZeroDivisionError):
        grid.work_through(tmp_path, study, lambda units, cell: None)
    later = Counting(replace(bench, commit="ba9876543210"), study.settings)
    grid.work_through(tmp_path, later, lambda units, cell: None)
    frame = grid.results(tmp_path, later, {})
    assert frame["commit"].tolist() == [COMMIT, "ba9876543210"]
    assert later.stamp(frame).startswith(f"n = 2 prompts | seed 1234 | commit {COMMIT}, ba9876543210 | recipe ")

"""Pictures with a known number of defects of one kind."""

import random

import pytest

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.studies.frame import Frame, read_table, write_rows
from irg_rl.studies.recovery import NONE, Recovery, broken_scene
from irg_rl.studies.settings import RecoverySettings


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", ["missing", "extra", "color", "shape", "relation"])
def test_the_checker_reads_exactly_the_defects_that_were_made(kind, number):
    rng, made = random.Random(0), 0
    for prompt in make_prompts(60, "train", seed=0, mix={"scene": 1.0}):
        scene = broken_scene(prompt.metadata, kind, number, rng)
        if scene is not None:
            made += 1
            defects = judge(read(render(scene)), prompt.metadata).defects
            assert [defect.kind for defect in defects] == [kind] * number
    assert made >= 5


def test_nothing_broken_is_right_and_what_cannot_be_broken_is_left_out():
    rng = random.Random(0)
    (prompt,) = make_prompts(1, "train", seed=0, mix={"single_object": 1.0})
    assert judge(read(render(broken_scene(prompt.metadata, NONE, 0, rng))), prompt.metadata).correct
    assert broken_scene(prompt.metadata, "relation", 1, rng) is None
    assert broken_scene(prompt.metadata, "missing", 2, rng) is None, "there is one object to lose"


def test_the_study_gives_broken_pictures_as_first_images(bench, tmp_path):
    study = Recovery(bench, RecoverySettings(kinds=["missing", "color"], numbers=[1], turns=2))
    rows = [cell.at | row for cell in study.cells() for row in study.measure(cell, lambda units: None)]
    write_rows(tmp_path / "rows.parquet", rows, {})
    frame = Frame.of(read_table(tmp_path / "rows.parquet"))
    first = frame.where(turn=1)
    assert first.where(number=0)["correct"].all() and not first.where(number=1)["correct"].any()
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} == {"recovery", "recovered"}
    assert "one defect is mended" in findings.headline

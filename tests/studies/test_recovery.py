"""Pictures with a known number of defects of one kind."""

import random
from dataclasses import replace

import pytest

from irg_rl.errors import InputError
from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import Relation, Thing, make_metadata
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.studies.recovery import NONE, Recovery, broken_scene
from irg_rl.studies.settings import RecoverySettings
from tests.studies.frames import measured


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


def test_two_objects_that_change_places_break_both_of_their_relations():
    things = [(Thing("circle", "red"), 1), (Thing("square", "blue"), 1)]
    relations = [Relation(0, "left of", 1), Relation(1, "below", 0)]
    metadata = make_metadata("scene", "a red circle and a blue square", things, relations)
    scene = broken_scene(metadata, "relation", 2, random.Random(0))
    assert [defect.kind for defect in judge(read(render(scene)), metadata).defects] == ["relation"] * 2


def test_the_study_gives_broken_pictures_as_first_images(bench, tmp_path):
    study = Recovery(bench, RecoverySettings(kinds=["missing", "color"], numbers=[1], turns=2))
    frame = measured(study, tmp_path)
    first = frame.where(turn=1)
    assert first.where(number=0)["correct"].all() and not first.where(number=1)["correct"].any()
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} == {"recovery", "recovered"}
    assert "one defect is mended" in findings.headline
    counts = [len(first.where(kind=kind)) for kind in ("missing", "color")]
    told = f"n = {min(counts)}" + (f" to {max(counts)} by kind" if min(counts) < max(counts) else "")
    assert f"tiny, 1 defect ({told})" in findings.plates[0].svg.decode()


def test_checkpoints_are_given_the_same_pictures(bench, tmp_path):
    (subject,) = bench.subjects
    twice = replace(bench, subjects=[subject, replace(subject, label="again")])
    study = Recovery(twice, RecoverySettings(kinds=["missing"], numbers=[1], turns=2))
    (table,) = study.findings(measured(study, tmp_path)).tables
    assert table.headings[-1] == "last turn, less tiny" and len(table.rows) == 4
    assert all(row[-1].startswith("+0.000 [+0.000, +0.000]") for row in table.rows)


def test_prompts_that_cannot_have_any_of_the_defects_are_no_figure(bench, tmp_path):
    (prompt,) = make_prompts(1, "train", seed=0, mix={"single_object": 1.0})
    study = Recovery(replace(bench, prompts=[prompt]), RecoverySettings(kinds=["relation"], numbers=[1], turns=2))
    with pytest.raises(InputError, match="figure 'recovered' has nothing to show"):
        study.findings(measured(study, tmp_path))

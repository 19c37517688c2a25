"""The teacher's reflections, degraded by kind and amount."""

import random

import pytest
import torch

from irg_rl.shapes_world.edits import EditKind
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import parse_reflection, reflection_text, sight_text
from irg_rl.studies.settings import TeacherSettings
from irg_rl.studies.teacher import NAMED, Teacher, TeacherCase, degraded, wrong_first_images
from irg_rl.studies.tensors import as_tensor
from irg_rl.trajectory import ImageSegment, Trajectory
from tests.studies.frames import measured


def cases_of(count: int, defects: int) -> list[TeacherCase]:
    """Pictures with so many defects in the place of first images."""
    rng, drawn, none = random.Random(1), [], torch.zeros(0)
    for prompt in make_prompts(count, "train", seed=1, mix={"scene": 1.0}):
        pixels = as_tensor(render(corrupt(sample_scene(prompt.metadata, rng), prompt.metadata, rng, defects)))
        image = ImageSegment(0, pixels, none, none, none, none, none, none, none)
        drawn.append(Trajectory(prompt, 0, [image]))
    return wrong_first_images(drawn)


@pytest.fixture(scope="module")
def cases() -> list[TeacherCase]:
    return cases_of(24, 2)


def edits(text: str) -> tuple:
    return parse_reflection(text).edits


def plain(case: TeacherCase) -> str:
    return reflection_text(sight_text(case.reading, case.prompt.metadata), case.edits)


def test_nothing_is_degraded_at_amount_zero(cases):
    assert len(cases) > 20
    assert all(degraded(case, cases, "cell", 0.0, seed=0) == plain(case) for case in cases)


@pytest.mark.parametrize("kind", ["cell", "thing"])
def test_an_edit_with_another_cell_or_thing_is_still_a_reflection(cases, kind):
    changed = 0
    for case in cases:
        text = degraded(case, cases, kind, 1.0, seed=0)
        assert text != plain(case)
        if parse_reflection(text) is None:
            continue  # a thing that a shape defect cannot have
        for now, before in zip(edits(text), edits(plain(case)), strict=True):
            changed += 1
            same_cell = (now.cell, now.to if now.kind is EditKind.MOVE else None) == (
                before.cell, before.to if before.kind is EditKind.MOVE else None
            )  # fmt: skip
            assert same_cell is (kind == "thing")
    assert changed > 20


def test_dropped_edits_leave_a_stop_and_invented_ones_are_added(cases):
    assert all(parse_reflection(degraded(case, cases, "drop", 1.0, seed=0)).stop for case in cases)
    more = [len(edits(degraded(case, cases, "extra", 1.0, seed=0))) - len(case.edits) for case in cases]
    assert set(more) <= {0, 1} and sum(more) > 15


def test_what_is_seen_can_be_anothers_while_the_edits_stay(cases):
    for case in cases:
        text = degraded(case, cases, "sight", 1.0, seed=0)
        assert edits(text) == edits(plain(case))
    assert sum(degraded(case, cases, "sight", 1.0, seed=0) != plain(case) for case in cases) > 20


def test_more_is_degraded_at_a_larger_amount(cases):
    counts = [sum(degraded(c, cases, "drop", amount, 0) != plain(c) for c in cases) for amount in (0.2, 0.6, 1.0)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    for case in cases:
        hit = degraded(case, cases, "cell", 0.3, 0) != plain(case)
        assert not hit or degraded(case, cases, "cell", 0.7, 0) != plain(case)


def test_the_study_holds_the_teacher_against_the_models_own_and_a_redraw(bench, tmp_path):
    study = Teacher(bench, TeacherSettings(kinds=["cell"], amounts=[1.0]))
    assert [cell.at["kind"] for cell in study.cells()] == ["teacher", "model's own", "redraw", "cell"]
    frame = measured(study, tmp_path)
    said = dict(zip(frame.where(kind="teacher")["prompt"], frame.where(kind="teacher")["said"]))
    assert any("missing" in text for text in said.values()) and len(said) == 3
    findings = study.findings(frame)
    (plate,) = findings.plates
    assert plate.name == "teacher" and "tiny (n = 3 wrong first images)" in plate.svg.decode()
    share = frame.where(kind="teacher")["reachable"].mean()
    (told,) = (row[3] for row in findings.tables[0].rows if row[1] == "reachable")
    assert told.startswith(f"{share:.3f} [")


def test_the_defects_of_a_case_are_counted_beyond_what_a_reflection_names():
    found = cases_of(12, 3)
    assert max(case.defects for case in found) > NAMED and all(len(case.edits) <= NAMED for case in found)


def test_a_lone_prompt_has_nobody_to_borrow_from(cases):
    lent = degraded(cases[0], [cases[0]], "sight", 1.0, seed=0)
    assert lent == plain(cases[0])

"""The turn study: one sampling without stops holds every other way to stop."""

import numpy as np
import pytest

from irg_rl.config import GuidanceRecipe, SamplingRecipe
from irg_rl.studies.frame import Frame, read_table, write_rows
from irg_rl.studies.settings import TurnsSettings
from irg_rl.studies.turns import Arm, Turns, best_so_far, draw_passes, hold, regret
from rollouts.request import Request


def frame_of(rows, folder) -> Frame:
    write_rows(folder / "rows.parquet", rows, {})
    return Frame.of(read_table(folder / "rows.parquet"))


def test_a_stop_keeps_the_image_before_it():
    stops = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], bool)
    assert hold(stops).tolist() == [2, 0, 1, 0]


def test_the_best_so_far_is_the_first_of_equals_and_never_a_failed_one():
    scores = np.array([[0.5, 0.5, 0.7], [0.9, np.nan, 0.2], [np.nan, 0.1, 0.0]])
    assert best_so_far(scores).tolist() == [[0, 0, 2], [0, 0, 0], [0, 1, 1]]


def test_regret_is_split_into_too_early_and_too_late():
    score, held = np.array([[0.2, 1.0, 1.0], [1.0, 0.5, 0.5], [0.5, 0.5, 0.6]]), np.array([0, 1, 1])
    lost, early = regret(score, held, 0.0)
    assert lost.tolist() == pytest.approx([0.8, 0.5, 0.1]) and early.tolist() == pytest.approx([0.8, 0, 0.1])
    priced, _ = regret(score, held, 0.2)
    assert priced.tolist() == pytest.approx([0.6, 0.7, 0.2])  # the last one should have stopped at once


def test_passes_of_an_image_count_the_branches_of_guidance():
    sampling = SamplingRecipe(points=5)
    assert draw_passes(sampling, GuidanceRecipe(), 0) == 4
    both = GuidanceRecipe(text_scale=2, image_scale=2, first_interval=(0.5, 1.0))
    assert draw_passes(sampling, both, 0) == 4 + 2  # t = 1, .75 of 1, .75, .5, .25
    assert draw_passes(sampling, both, 1) == 12


def test_stops_are_overridden_and_the_learned_arm_is_what_sampling_with_stops_gives(bench, tmp_path):
    study = Turns(bench, TurnsSettings(turns=3, samples=2))
    (cell,) = study.cells()
    counted = []
    frame = frame_of([cell.at | row for row in study.measure(cell, counted.append)], tmp_path)
    arm = Arm(frame)
    assert arm.correct.shape == (6, 3) and sum(counted) == cell.work == 18
    (subject,) = bench.subjects
    requests = [Request(p, s, bench.seed) for p in bench.prompts for s in range(2)]
    real = subject.sampler().sample(requests, 3, 2)
    assert (arm.held + 1).tolist() == [t.turns for t in real]
    assert arm.passes[:, 0].tolist() == [len(t.texts[0].ids) + 1 + 2 for t in real]


def test_the_study_reads_the_learned_stop_from_what_was_said(bench, tmp_path):
    """Six prompts, three turns: the first half stops after a right first image and would have lost it."""
    rows = []
    for number in range(6):
        right, stops = ([1, 0, 0], [0, 1, 0]) if number < 3 else ([0, 1, 1], [0, 0, 1])
        for turn in range(3):
            rows.append({
                "subject": "tiny", "trained_turns": 2, "history": "last", "prompt": f"p{number}", "sample": 0,
                "turn": turn + 1, "constraints": 1, "correct": bool(right[turn]), "score": float(right[turn]),
                "stops": bool(stops[turn]), "text_passes": 4, "image_passes": 10, "change": 1.0 if turn else None,
            })  # fmt: skip
    findings = Turns(bench, TurnsSettings(turns=3)).findings(frame_of(rows, tmp_path))
    assert "0.500 after 1 turn, 0.500 after 3; with its own stop 1.000 at 1.50 images" in findings.headline
    told = {row[1]: row[2:] for row in findings.tables[0].rows}
    assert [cell[:6] for cell in told["learned stop − always n"]] == ["+0.000", "+0.500", "+0.500"]
    assert told["always n: damage to a right first image"][2].startswith("1.000")
    assert told["learned stop: damage to a right first image"][2].startswith("0.000")
    arm = Arm(frame_of(rows, tmp_path))
    assert arm.spent(2).tolist() == [14 + 4] * 3 + [28 + 4] * 3  # a stop costs its text
    plates = {plate.name: plate for plate in findings.plates}
    assert {"accuracy", "best-so-far", "anytime", "stop-regret", "repair-damage", "drift", "constraints"} == set(plates)
    assert all(plate.png[1:4] == b"PNG" and b"commit 0123456789ab" in plate.svg for plate in plates.values())

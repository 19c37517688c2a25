"""The turn study: one sampling without stops holds every other way to stop."""

from dataclasses import replace

import numpy as np
import pytest

from irg_rl.config import GuidanceRecipe, SamplingRecipe
from irg_rl.studies.settings import TurnsSettings
from irg_rl.studies.turns import (
    Arm,
    Turns,
    best_shares,
    best_so_far,
    draw_passes,
    last_before_stop,
    pairs,
    regret,
    repair_and_damage,
)
from rollouts.request import Request
from tests.studies.frames import frame_of, measured

LABEL = "tiny (trained n=2, history last)"


def rows_of(prompt: str, right: list[int], stops: list[int], subject: str = "tiny") -> list[dict]:
    return [
        {
            "subject": subject, "training": "trained n=2", "history": "last", "prompt": prompt, "sample": 0,
            "turn": turn + 1, "constraints": 1, "correct": bool(right[turn]), "score": float(right[turn]),
            "stops": bool(stops[turn]), "text_passes": 4, "image_passes": 10, "change": 1.0 if turn else None,
        }
        for turn in range(len(right))
    ]  # fmt: skip


def test_a_stop_keeps_the_image_before_it():
    stops = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], bool)
    assert last_before_stop(stops).tolist() == [2, 0, 1, 0]


def test_the_best_so_far_is_the_first_of_equals_and_never_a_failed_one():
    scores = np.array([[0.5, 0.5, 0.7], [0.9, np.nan, 0.2], [np.nan, 0.1, 0.0]])
    assert best_so_far(scores).tolist() == [[0, 0, 2], [0, 0, 0], [0, 1, 1]]


def test_regret_is_split_into_too_early_and_too_late():
    score, kept = np.array([[0.2, 1.0, 1.0], [1.0, 0.5, 0.5], [0.5, 0.5, 0.6]]), np.array([0, 1, 1])
    lost, early = regret(score, kept, 0.0)
    assert lost.tolist() == pytest.approx([0.8, 0.5, 0.1]) and early.tolist() == pytest.approx([0.8, 0, 0.1])
    priced, _ = regret(score, kept, 0.2)
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
    assert (arm.kept + 1).tolist() == [t.turns for t in real]
    assert arm.passes[:, 0].tolist() == [len(t.texts[0].ids) + 1 + 2 for t in real]


def test_the_study_reads_the_learned_stop_from_what_was_said(bench, tmp_path):
    """Six prompts, three turns: the first half stops after a right first image and would have lost it."""
    rows = []
    for number in range(6):
        right, stops = ([1, 0, 0], [0, 1, 0]) if number < 3 else ([0, 1, 1], [0, 0, 1])
        rows += rows_of(f"p{number}", right, stops)
    findings = Turns(bench, TurnsSettings(turns=3)).findings(frame_of(rows, tmp_path))
    assert "0.500 after 1 turn, 0.500 after 3; with its own stop 1.000 at 1.50 images" in findings.headline
    told = {row[1]: row[2:] for row in findings.tables[0].rows}
    assert [cell[:6] for cell in told["learned stop − always n"]] == ["+0.000", "+0.500", "+0.500"]
    assert told["always n: damage to a right first image"][2].startswith("1.000")
    assert told["learned stop: damage to a right first image"][2].startswith("0.000")
    of_all = told["learned stop: damage of the turn, of all right before it"]
    assert [cell[-5:] for cell in of_all[1:]] == ["(n=3)", "(n=6)"]
    assert [table.title for table in findings.tables] == ["Train-n x test-n", "Score less the price of edits"]
    arm = Arm(frame_of(rows, tmp_path))
    assert arm.spent(2).tolist() == [14 + 4] * 3 + [28 + 4] * 3  # a stop costs its text
    plates = {plate.name: plate for plate in findings.plates}
    assert {"accuracy", "best-so-far", "anytime", "stop-regret", "repair-damage", "drift", "constraints"} == set(plates)
    assert all(plate.png[1:4] == b"PNG" and b"commit 0123456789ab" in plate.svg for plate in plates.values())


def test_damage_is_that_of_all_right_images_and_repair_of_those_drawn_again():
    """By hand: of two right images one is drawn again and broken, the other is kept; of two wrong ones one is mended
    and the other kept."""
    right = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    draws = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    (mended,), (broken,) = repair_and_damage(right, draws, ["a", "b", "c", "d"])
    assert (mended.value, mended.n, broken.value, broken.n) == (1, 1, 0.5, 2)


def test_a_scorer_that_always_failed_chooses_nothing(tmp_path):
    arm = Arm(frame_of(rows_of("a", [1, 0], [0, 0]) + rows_of("b", [0, 1], [0, 0]), tmp_path))
    first, second = best_shares(arm, np.array([[np.nan, np.nan], [np.nan, 0.2]]))
    assert first.n == 0 and (second.value, second.n) == (1, 1)


def test_a_trajectory_with_a_failed_reward_is_left_out(bench, tmp_path):
    def failing(images, prompts):
        found = bench.verify(images, prompts)
        return [None if p.id == lost.id else one for one, p in zip(found, prompts)]

    kept, lost, other = bench.prompts
    study = Turns(replace(bench, verify=failing), TurnsSettings(turns=2))
    frame = measured(study, tmp_path)
    assert frame.values("prompt") == [kept.id, other.id] and frame["score"].dtype == float
    assert b"n = 2 prompts |" in study.findings(frame).plates[0].svg


def test_histories_are_paired_within_a_checkpoint_and_checkpoints_with_the_first():
    a, b, c = (("a", "SFT"), ("b", "trained n=2"), ("c", ""))
    places = [(*a, "last"), (*a, "full"), (*b, "last"), (*b, "full"), (*c, "full")]
    assert pairs(places) == [
        ((*a, "full"), (*a, "last")), ((*b, "full"), (*b, "last")), ((*b, "last"), (*a, "last")),
        ((*b, "full"), (*a, "full")), ((*c, "full"), (*a, "full")),
    ]  # fmt: skip
    assert pairs([(*a, "last"), (*c, "full")]) == [((*c, "full"), (*a, "last"))]


def test_checkpoints_are_compared_over_the_prompts_that_both_have(bench, tmp_path):
    rows = rows_of("a", [0, 0], [0, 0]) + rows_of("b", [0, 1], [0, 1])
    rows += rows_of("b", [1, 1], [0, 0], "other") + rows_of("c", [1, 1], [0, 0], "other")
    table = Turns(bench, TurnsSettings(turns=2)).findings(frame_of(rows, tmp_path)).tables[1]
    other = LABEL.replace("tiny", "other")
    assert [row[:3] for row in table.rows] == [[other, LABEL, "always n"], [other, LABEL, "learned stop"]]
    assert [[cell.split()[0] for cell in row[3:]] for row in table.rows] == [["+1.000", "+0.000"], ["+1.000", "+1.000"]]
    assert all(cell.endswith("(n=1)") for row in table.rows for cell in row[3:])


def test_what_nobody_knows_of_a_checkpoint_is_not_said(bench, tmp_path):
    rows = [row | {"training": ""} for row in rows_of("a", [0, 1], [0, 0])]
    assert Turns(bench, TurnsSettings(turns=2)).findings(frame_of(rows, tmp_path)).headline.startswith(
        "tiny (history last): "
    )

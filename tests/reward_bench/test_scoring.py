"""Scoring many images: nothing is asked twice, and every failure has its reason."""

import json

import pytest

from irg_rl.errors import InputError
from irg_rl.reward_bench.scoring import (
    NOT_USED,
    ScoreAnswer,
    ScoreLog,
    ScorerCase,
    ask_scorer,
    images_per_second,
    items_of,
    reasons,
    table_rows,
    unanswered,
)
from tests.reward_bench.bench import Hubs, case, picture, pictures, tagged

BRIGHT = ScorerCase("bright", "tests.rewards.scorers:Brightness", "bright v1")


def broken():
    raise InputError("7.png: the image cannot be decoded: cut off")


def test_answers_are_those_of_the_scorer_and_a_second_call_loads_nothing(tmp_path):
    items, hubs = items_of(pictures()), Hubs(BRIGHT)
    log = ScoreLog(tmp_path / "log.jsonl")
    answers = ask_scorer(BRIGHT, items, log, hubs, batch=5)
    assert [a.score for a in answers] == [pytest.approx(float(i.image.read().mean()) / 255) for i in items]
    assert hubs.shown("bright") == len(items) and images_per_second(answers) > 0
    again = Hubs(BRIGHT)
    kept = ask_scorer(BRIGHT, items, ScoreLog(tmp_path / "log.jsonl"), again)
    assert [a.score for a in kept] == [a.score for a in answers] and not again.opened


def test_a_call_that_was_killed_goes_on_where_it_stopped(tmp_path):
    items, path = items_of(pictures()), tmp_path / "log.jsonl"
    ask_scorer(BRIGHT, items[:7], ScoreLog(path), Hubs(BRIGHT))
    path.write_bytes(path.read_bytes()[:-9])  # the last line is cut off
    hubs = Hubs(BRIGHT)
    answers = ask_scorer(BRIGHT, items, ScoreLog(path), hubs)
    assert hubs.shown("bright") == len(items) - 6 and None not in [a.score for a in answers]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_another_prompt_other_settings_and_another_round_are_other_questions(tmp_path):
    [image], log = pictures(1, 1), ScoreLog(tmp_path / "log.jsonl")
    hubs = Hubs(BRIGHT)
    ask_scorer(BRIGHT, items_of([image]), log, hubs)
    ask_scorer(BRIGHT, items_of([picture(image.read(), prompt="another")]), log, hubs)
    ask_scorer(ScorerCase("bright", BRIGHT.kind, "bright v2"), items_of([image]), log, hubs)
    ask_scorer(BRIGHT, items_of([image]), log, hubs, round_=1)
    assert hubs.shown("bright") == 4


def test_every_failure_has_its_own_reason_and_is_asked_for_again(tmp_path):
    picky, items = case("picky", "Picky"), items_of(pictures(1, levels=[30, 140, 220]))
    log = ScoreLog(tmp_path / "log.jsonl")
    answers = ask_scorer(picky, items, log, Hubs(picky))
    assert [a.score is None for a in answers] == [False, True, True]
    assert reasons(answers) == {"too bright: 0.54": 1, "too bright: 0.85": 1}
    hubs = Hubs(picky)
    ask_scorer(picky, items, ScoreLog(log.path), hubs)
    assert hubs.shown("picky") == 2


def test_a_scorer_that_cannot_work_is_a_failure_of_all_images_and_is_not_remembered(tmp_path):
    absent, log = case("absent", "Absent"), ScoreLog(tmp_path / "log.jsonl")
    answers = ask_scorer(absent, items_of(pictures(1, 3)), log, Hubs(absent))
    assert reasons(answers) == {"unavailable: scorer 'absent': no such model: put it there": 3}
    assert not log.answers


def test_a_broken_image_is_a_failure_with_its_reason_and_is_shown_to_no_scorer(tmp_path):
    images = pictures(1, 2)
    images[1] = type(images[1])(where="7.png", prompt=images[0].prompt, group="g", read=broken)
    hubs = Hubs(BRIGHT)
    items = items_of(images)
    answers = ask_scorer(BRIGHT, items, ScoreLog(tmp_path / "log.jsonl"), hubs)
    assert hubs.shown("bright") == 1 and answers[1].error == "7.png: the image cannot be decoded: cut off"
    rows = table_rows(items, {"bright": answers})
    assert rows[1]["bright"] is None and rows[1]["bright.error"] == answers[1].error
    assert rows[0]["bright.error"] is None and rows[0]["group"] == "g0" and rows[0]["prompt"] == "prompt 0"


def test_a_prompt_that_the_scorer_is_not_used_for_is_no_failure_and_is_not_asked_for_again(tmp_path):
    picky, when = case("picky", "Picky"), {"tag": "counting"}
    items = items_of(tagged(pictures(1, levels=[30, 40, 220, 230]), "counting", "colors"))
    log, hubs = ScoreLog(tmp_path / "log.jsonl"), Hubs(picky, when=when)
    answers = ask_scorer(picky, items, log, hubs)
    assert [(a.score is None, a.used, a.failed) for a in answers] == [
        (False, True, False), (True, False, False), (True, True, True), (True, False, False)
    ]  # fmt: skip
    assert hubs.shown("picky") == 2 + 1, "a failed one is asked for alone once more"
    assert reasons(answers) == {"too bright: 0.85": 1}
    assert table_rows(items, {"picky": answers})[1]["picky.error"] == NOT_USED
    assert [item.image.where for item in unanswered(picky, items, ScoreLog(log.path)).values()] == ["0/2"]
    ask_scorer(picky, items[1::2], ScoreLog(log.path), again := Hubs(picky, when=when))
    assert not again.opened


def test_a_log_of_something_else_is_one_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(InputError, match="line 1: not an answer of a scorer"):
        ScoreLog(tmp_path / "log.jsonl")


def test_speed_counts_only_images_that_were_scored():
    answers = [ScoreAnswer(1.0, seconds=0.25), ScoreAnswer(None, "x", 9.0), ScoreAnswer(1.0, seconds=0.25)]
    assert images_per_second(answers) == 4

import json
from dataclasses import replace

import numpy as np
import pytest

from irg_rl.evaluate import intervals, metrics
from tests.evaluate.tables import build


def test_repair_and_damage_are_conditioned_on_the_first_image(table):
    outcomes = table([[0, 1], [0, 0], [0, 1], [0, 1], [1, 1], [1, 0]])
    assert (metrics.repair(outcomes, 1).value, metrics.repair(outcomes, 1).n) == (0.75, 4)
    assert (metrics.damage(outcomes, 1).value, metrics.damage(outcomes, 1).n) == (0.5, 2)
    assert metrics.accuracy(outcomes, 1).value == pytest.approx(4 / 6)


def test_repair_without_a_wrong_first_image_is_not_zero_but_unknown(table):
    repaired = metrics.repair(table([[1, 1]]), 1)
    assert np.isnan(repaired.value) and repaired.n == 0


def without_verdicts(outcomes, places):
    """The same table where nobody could judge the images at these (row, turn)."""
    correct, score = outcomes.correct.copy(), outcomes.score.copy()
    for place in places:
        correct[place], score[place] = False, np.nan
    return replace(outcomes, correct=correct, score=score)


def test_an_image_without_a_verdict_counts_neither_as_right_nor_as_wrong(table):
    whole = table([[0, 1], [0, 0], [1, 1], [1, 0], [0, 1], [1, 1]])
    known, lacking = whole.take([0, 1, 2, 3]), without_verdicts(whole, [(4, 0), (5, 1)])
    for turn in (0, 1):
        own = lacking.take([0, 1, 2, 3, 5 - turn])
        assert metrics.accuracy(lacking, turn).value == own.correct[:, turn].mean()
        assert metrics.accuracy(lacking, turn).n == 5 and metrics.missing(lacking, turn).value == 1 / 6
        assert metrics.score(lacking, turn).value == pytest.approx(own.score[:, turn].mean())
    for metric in (metrics.repair, metrics.damage):
        assert (metric(lacking, 1).value, metric(lacking, 1).n) == (metric(known, 1).value, metric(known, 1).n)
    stopped = replace(lacking, stopped=np.array([[0, 1]] * 6, bool))
    assert metrics.stop_when_right(stopped, 1).n == 3 and metrics.stop_when_wrong(stopped, 1).n == 2


def test_a_summary_counts_missing_verdicts_only_where_there_are_any(table):
    whole = table([[0, 1], [1, 1]])
    assert metrics.summarize(whole)["missing"] == []
    shares = metrics.summarize(without_verdicts(whole, [(0, 0), (0, 1), (1, 1)]))["missing"]
    assert [share["value"] for share in shares] == [0.5, 1.0]


def test_without_any_verdict_nothing_is_known_and_the_summary_is_still_json(table):
    nothing = without_verdicts(table([[0, 1], [1, 1]]), [(r, t) for r in (0, 1) for t in (0, 1)])
    found = json.loads(json.dumps(metrics.summarize(nothing), allow_nan=False))
    assert [share["value"] for share in found["accuracy"]] == [None, None] and found["repair"][1]["n"] == 0


def test_a_tie_is_half_a_preference_and_a_pair_without_an_answer_is_none(table):
    rows = [[np.nan, 1], [np.nan, 1], [np.nan, 0], [np.nan, 0.5], [np.nan, np.nan]]
    asked = np.array([[False, True]] * 5)
    outcomes = replace(table([[0, 1]] * 5), preferred=np.array(rows), asked=asked)
    assert (metrics.preferred(outcomes, 1).value, metrics.preferred(outcomes, 1).n) == (2.5 / 4, 4)
    assert (metrics.ties(outcomes, 1).value, metrics.ties(outcomes, 1).n) == (0.25, 4)
    assert (metrics.unanswered(outcomes, 1).value, metrics.unanswered(outcomes, 1).n) == (0.2, 5)
    told = metrics.summarize(outcomes)
    assert told["preferred"][0] is None and told["preferred"][1]["value"] == 2.5 / 4 and told["ties"][1]["n"] == 4


def test_preferences_of_prompts_that_ask_for_the_same_count_as_one_case():
    def interval(sets):
        rows = np.array([[np.nan, float(number % 4 > 0)] for number in range(40)])
        outcomes = replace(build([[0, 1]] * 40, sets=sets), preferred=rows, asked=np.isfinite(rows))
        return intervals.mean(metrics.preferred(outcomes, 1))

    alone = interval([f"s{number}" for number in range(40)])
    alike = interval([f"s{number % 4}" for number in range(40)])  # the prompts of a set all have the same answer
    assert alone.value == alike.value == 0.75 and (alone.sets, alike.sets) == (40, 4)
    assert alike.high - alike.low > 2 * (alone.high - alone.low)


def test_a_statistic_changes_by_the_ratio_of_its_means_to_those_of_the_first_images(table):
    outcomes = replace(table([[0, 1]] * 3), statistics={"sharpness": np.array([[4.0, 2], [2, 1], [np.nan, np.nan]])})
    told = metrics.summarize(outcomes)["statistics"]["sharpness"]
    assert [level["value"] for level in told["level"]] == [3, 1.5] and told["level"][0]["n"] == 2
    assert told["change"][0] is None and told["change"][1]["value"] == 0.5
    assert told["change"][1]["low"] == pytest.approx(0.5)  # all images lose half


def test_stops_are_split_by_whether_the_image_in_hand_was_right(table):
    outcomes = table(
        [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1]],
        stopped=[[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]],
    )
    assert metrics.stop_rate(outcomes, 1).value == 0.5
    assert metrics.stop_when_right(outcomes, 1).value == 0.5
    assert metrics.stop_when_wrong(outcomes, 1).value == 0.5
    # at turn 2 only rows 1 and 3 are still going, both with a right image in hand
    assert (metrics.stop_when_right(outcomes, 2).value, metrics.stop_when_right(outcomes, 2).n) == (0.5, 2)
    assert metrics.stop_when_wrong(outcomes, 2).n == 0


def test_means_leave_out_what_a_scorer_could_not_score(table):
    outcomes = table([[1, 1], [1, 1]], rewards={"hps": np.array([[0.2, np.nan], [0.4, 0.6]])})
    assert metrics.reward(outcomes, 0, "hps").value == pytest.approx(0.3)
    assert (metrics.reward(outcomes, 1, "hps").value, metrics.reward(outcomes, 1, "hps").n) == (0.6, 1)


def test_a_summary_is_strict_json_with_n_and_interval_beside_every_figure(table):
    summary = metrics.summarize(table([[0, 1, 1], [1, 1, 1], [0, 0, 1]]))
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again["accuracy"][2] == {
        "value": 1.0, "n": 3, "low": pytest.approx(0.1395, abs=1e-4), "high": 1.0, "sets": 3,
    }  # fmt: skip
    assert again["repair"][0] is None and again["repair"][1]["value"] == 0.5
    assert again["tasks"]["counting"]["repair"]["value"] == 1.0
    assert again["preferred"] == again["ties"] == again["unanswered"] == []


def test_tasks_partition_the_rows(table):
    one, two = table([[0, 1]], prompts=["a"], task="colors"), table([[1, 1]], prompts=["b"], task="counting")
    both = one.take([0])
    assert metrics.summarize(both)["tasks"].keys() == {"colors"}
    assert two.take(np.array([False])).prompt_ids == []


def test_the_mean_over_tasks_gives_every_task_the_same_weight():
    """Eight scenes, none of them right, and two colours that are right: .2 of the prompts, and half of the tasks."""
    table = replace(build([[0, 0]] * 8 + [[0, 1]] * 2), tasks=["scene"] * 8 + ["colors"] * 2)
    assert metrics.accuracy(table, 1).value == pytest.approx(0.2)
    assert metrics.balanced_accuracy(table, 1).value == pytest.approx(0.5)
    assert metrics.balanced_accuracy(table, 1).n == 10
    score = table.score.copy()
    score[3, 1] = np.nan
    without_one = replace(table, score=score)
    assert metrics.balanced_accuracy(without_one, 1).value == pytest.approx(0.5)
    assert metrics.balanced_accuracy(without_one, 1).n == 9


def test_differences_between_tasks_are_no_error_of_their_mean():
    """Within each task all rows are equal, so another draw of prompts would give the same mean."""
    table = replace(build([[0, 0]] * 8 + [[0, 1]] * 2), tasks=["scene"] * 8 + ["colors"] * 2)
    found = intervals.mean(metrics.balanced_accuracy(table, 1))
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    mixed = replace(build([[0, k % 2] for k in range(8)] + [[0, 1]] * 2), tasks=["scene"] * 8 + ["colors"] * 2)
    spread = intervals.mean(metrics.balanced_accuracy(mixed, 1))
    assert spread.value == pytest.approx(0.75) and spread.low < 0.75 < spread.high


def test_a_task_with_one_set_is_left_out_of_the_mean_over_tasks():
    table = replace(build([[0, 0]] * 4 + [[0, 1]]), tasks=["scene"] * 4 + ["colors"])
    assert metrics.balanced_accuracy(table, 1).value == 0.0 and metrics.balanced_accuracy(table, 1).n == 4


def test_the_mean_over_tasks_of_equal_tasks_is_the_accuracy():
    rows = [[0, k % 3 > 0] for k in range(12)]
    table = replace(build(rows), tasks=["scene", "colors"] * 6)
    assert metrics.balanced_accuracy(table, 1).value == pytest.approx(metrics.accuracy(table, 1).value)

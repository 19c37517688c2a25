import pytest
from rich.console import Console

from irg_rl.evaluate import gate, intervals
from irg_rl.evaluate.gate import GateReport
from irg_rl.task import Thresholds

ASKED = Thresholds(first_accuracy=0.40, damage=0.08, margin=0.15)


def check_gate(*arms, thresholds: Thresholds = ASKED, **options) -> GateReport:
    return gate.check_gate(*arms, thresholds, **options)


def arms(table, real=0.6, redraw=0.2, shuffled=0.3, first=0.5, damaged=0.02, n=100):
    """n prompts of which `first` start right; each arm repairs its share of the rest; the real one damages a few."""
    right = int(first * n)

    def arm(name, repaired, broken):
        rows = [[1, int(i >= broken * right)] for i in range(right)]
        rows += [[0, int(i < repaired * (n - right))] for i in range(n - right)]
        return table(rows, arm=name)

    return arm("real", real, damaged), arm("redraw", redraw, 0.5), arm("shuffled", shuffled, 0.1)


def test_real_refinement_passes(table):
    report = check_gate(*arms(table))
    assert report.passed and report.failures == []
    assert [round(line.measure.value, 3) for line in report.lines] == [0.5, 0.02, 0.4, 0.3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": 0.38}, "first image right"),
        ({"damaged": 0.10}, "damage"),
        ({"redraw": 0.5}, "repair above a plain redraw"),
        ({"shuffled": 0.5}, "repair above a shuffled reflection"),
    ],
)
def test_each_requirement_alone_closes_the_gate_and_is_named(table, change, words):
    report = check_gate(*arms(table, **change))
    assert not report.passed
    assert [failure.split(" is ")[0] for failure in report.failures] == [words]


def test_the_trap_of_the_first_trial_is_caught(table):
    """Repair .38 looks like refinement; a plain redraw repairs .42: the model only redrew."""
    report = check_gate(*arms(table, first=0.65, real=0.383, redraw=0.416, shuffled=0.388, damaged=0.215))
    assert len(report.failures) == 3


def test_exactly_the_threshold_is_enough(table):
    assert check_gate(*arms(table, first=0.40, real=0.35, redraw=0.2, shuffled=0.2)).passed


def test_nothing_to_repair_is_not_a_pass(table):
    everything_right = [[1, 1]] * 10
    same = [table(everything_right, arm=name) for name in ("real", "redraw", "shuffled")]
    report = check_gate(*same)
    assert not report.passed
    assert [line.passed for line in report.lines] == [True, True, None, None]
    assert report.failures[0] == "repair above a plain redraw could not be measured (n=0), asked >= 0.15"
    console = Console(record=True, width=160)
    console.print(report)
    printed = console.export_text()
    assert printed.count("not measured") == 2 and "fails" not in printed


def test_controls_from_other_first_images_are_refused(table):
    real, redraw, shuffled = arms(table)
    other = table((~redraw.correct).tolist(), arm="redraw")
    with pytest.raises(ValueError, match="100 of 100 verdicts differ"):
        check_gate(real, other, shuffled)
    with pytest.raises(ValueError, match="other prompts"):
        check_gate(real, redraw.take(range(50)), shuffled)


@pytest.mark.parametrize(("thresholds", "words", "failing"), [
    (Thresholds(0.9, 0.08, 0.15), "first images are too seldom right", 0),  # this says nothing about refinement
    (Thresholds(0.9, 0.08, 0.95), "refinement is not shown", 2),
])  # fmt: skip
def test_thresholds_are_arguments_and_the_table_prints(table, thresholds, words, failing):
    report = check_gate(*arms(table), thresholds=thresholds)
    console = Console(record=True, width=160)
    console.print(report)
    printed = console.export_text()
    assert f"Gate: {words} (turn" in printed and ">= 0.90" in printed and "fails" in printed
    assert report.to_dict()["lines"][failing]["passed"] is False


def test_arms_of_different_depth_meet_at_the_deepest_common_turn(table):
    real = table([[0, 0, 1], [1, 1, 1]])
    control = [table([[0, 0], [1, 1]], arm=name) for name in ("redraw", "shuffled")]
    assert check_gate(real, *control).turn == 1
    with pytest.raises(ValueError, match="gate at turn 2"):
        check_gate(real, *control, turn=2)


def test_every_requirement_is_measured_at_the_gate_s_turn(table):
    """Turn 1 damages, turn 2 has mended it: each turn has a damage and a repair of its own."""
    rows = [[1, 0, 1]] * 6 + [[1, 1, 1]] * 4 + [[0, 0, 1]] * 10
    real = table(rows)
    controls = [table([[first, 0, 0] for first, *_ in rows], arm=name) for name in ("redraw", "shuffled")]
    at = {turn: [line.measure.value for line in check_gate(real, *controls, turn=turn).lines[1:]] for turn in (1, 2)}
    assert at == {1: [0.6, 0.0, 0.0], 2: [0.0, 1.0, 1.0]}
    assert [line.measure.value for line in check_gate(real, *controls).lines[1:]] == at[2]


def test_a_requirement_needs_as_many_cases_as_its_threshold_takes_to_tell():
    assert [gate.fewest(t) for t in (0.40, 0.15, 0.08, 0.0, 1.0)] == [6, 22, 45, 1, 1]
    assert intervals.wilson(0.0, 45, 1.96)[1] < 0.08 < intervals.wilson(0.0, 44, 1.96)[1]


def test_few_prompts_neither_pass_nor_fail_the_gate_and_what_it_stops_stays(table):
    few = check_gate(*arms(table, damaged=0.0, n=24))
    assert few.passed and few.verdict == gate.NOT_JUDGED
    assert [line.verdict for line in few.lines] == [gate.HOLDS, gate.FEW, gate.FEW, gate.FEW]
    console = Console(record=True, width=160)
    console.print(few)
    printed = console.export_text()
    assert "Gate: too few cases to judge refinement (turn" in printed and printed.count("│ too few │") == 3

    enough = check_gate(*arms(table))
    assert enough.passed and enough.verdict == gate.PASSED


def test_a_requirement_that_fails_on_enough_cases_closes_the_gate_beside_others_with_too_few(table):
    report = check_gate(*arms(table, first=0.25, n=24))
    assert report.lines[0].verdict == gate.FAILS and report.lines[1].verdict == gate.FEW
    assert not report.passed and report.verdict == gate.NOT_PASSED

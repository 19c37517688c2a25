"""Curves as lines with places."""

import math

import pytest

from irg_rl.evaluate.health import series
from irg_rl.view import charts
from irg_rl.view.curves import MOST_POINTS, Chart, CurveLine, chart_of, thinned


def test_ticks_are_round_numbers_inside_the_range():
    assert charts.steps(0.0, 1.0, 4) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.steps(3.0, 27.0, 5) == pytest.approx([5.0, 10.0, 15.0, 20.0, 25.0])
    assert charts.steps(2.0, 2.0, 4) == [2.0]


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (1.0, "1"), (0.12345, "0.123"), (-0.5, "\N{MINUS SIGN}0.5"), (12345.6, "12346"), (2.5e-5, "2.5e-5"),
    (1e9, "1.0e9"), (176.125, "176"),
])  # fmt: skip
def test_numbers_are_short(value, text):
    assert charts.shown(value) == text


def test_a_line_goes_from_corner_to_corner():
    drawn = charts.draw(Chart("c", "step", [CurveLine("a", [(0.0, 0.0), (10.0, 1.0)])]))
    [first, last] = [tuple(map(float, point.split())) for point in drawn.lines[0].path[1:].split("L")]
    assert first[0] == charts.LEFT and last[0] == charts.WIDTH - charts.RIGHT
    assert charts.HEIGHT - charts.BOTTOM > first[1] > last[1] > charts.TOP


def test_equal_values_one_point_and_no_point_can_be_drawn():
    assert "nan" not in charts.draw(Chart("c", "", [CurveLine("a", [(1.0, 3.0), (2.0, 3.0)])])).lines[0].path
    assert charts.draw(Chart("c", "", [CurveLine("a", [(1.0, 3.0)])])).lines[0].last == "3"
    assert charts.draw(Chart("c", "", [])).lines == []


def test_a_logarithmic_scale_needs_positive_values():
    wide = [CurveLine("a", [(1.0, 1e-6), (2.0, 1.0)])]
    assert [tick.text for tick in charts.draw(Chart("c", "", wide, True)).y_ticks][0] == "1.0e-6"
    crossing = [CurveLine("a", [(1.0, -1.0), (2.0, 1.0)])]
    assert "0" in [tick.text for tick in charts.draw(Chart("c", "", crossing, True)).y_ticks]


def test_stages_follow_each_other_and_values_that_are_no_numbers_are_left_out():
    rows = [
        {"stage": "sft1", "step": 10, "ce": 2.0}, {"stage": "sft1", "step": 20, "ce": math.nan},
        {"stage": "sft2", "step": 5, "ce": 1.0}, {"stage": "sft2", "step": 5, "ce": 1.5, "note": "text"},
    ]  # fmt: skip
    [line] = chart_of("c", r"sft\d/ce", {"a": series(rows)}).lines
    assert line.points == [(10.0, 2.0), (15.0, 1.5)]  # a repeated step counts once, as it was logged last


def test_many_points_become_means():
    points = [(float(x), float(x % 2)) for x in range(4 * MOST_POINTS)]
    few = thinned(points)
    assert len(few) == MOST_POINTS and {value for _, value in few} == {0.5}


def test_a_run_keeps_its_colour_and_a_line_its_dashes():
    rows = [{"stage": "rl", "step": 1, "reward/first": 1.0, "reward/last": 2.0}]
    lines = chart_of("c", r"rl/reward/(?P<line>first|last)", {"a": series(rows), "b": series(rows)}).lines
    assert [(line.label, line.colour, line.dash) for line in lines] == [
        ("a first", 0, 0), ("a last", 0, 1), ("b first", 1, 0), ("b last", 1, 1)
    ]  # fmt: skip

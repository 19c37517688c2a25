"""Figures show what they rest on, and say why when there is nothing to show."""

import re

import pytest

from irg_rl.errors import InputError
from irg_rl.evaluate.intervals import Measure
from irg_rl.studies import plates
from irg_rl.studies.plates import PlateLine, dots_plate, heat_plate, lines_plate

KNOWN, UNKNOWN = Measure(0.02, 50, 0.004, 0.1), Measure(float("nan"), 0)
WORDS = ("name", "title", "caption", "stamp")


def heat(panels):
    return heat_plate(*WORDS, panels, x=[1, 2], y=["a"], x_label="x", y_label="y")


def test_a_square_shows_its_interval_which_need_not_be_symmetric_and_its_n():
    drawn = heat({"": {(1, "a"): KNOWN, (2, "a"): UNKNOWN}}).svg.decode()
    assert "[0.004, 0.1]" in drawn and "n=50" in drawn and "nan" not in drawn


@pytest.mark.parametrize(("other", "white"), [(KNOWN, 2), (Measure(0.9, 50, 0.8, 0.95), 1)])
def test_words_stand_out_from_their_square_also_where_all_are_alike(other, white):
    drawn = heat({"": {(1, "a"): KNOWN, (2, "a"): other}}).svg.decode()
    assert len(re.findall(r"<text[^>]*fill: #ffffff[^>]*>n=50", drawn)) == white


def test_a_row_of_dots_shows_its_n():
    plate = dots_plate(*WORDS, {"": {"one": KNOWN}}, rows=["one", "two"], x_label="x")
    assert b"n=50" in plate.svg


def test_a_panel_without_a_number_is_drawn_empty():
    assert heat({"known": {(1, "a"): KNOWN}, "unknown": {(1, "a"): UNKNOWN}, "none": {}}).png[1:4] == b"PNG"


def test_a_figure_without_a_panel_says_why():
    for draw in (heat, lambda panels: lines_plate(*WORDS, panels, x_label="x", y_label="y")):
        with pytest.raises(InputError, match="figure 'name' has nothing to show: no case"):
            draw({})


def test_the_axis_from_zero_holds_the_lines_of_every_panel(monkeypatch):
    drawn = []
    monkeypatch.setattr(plates, "finish", lambda figure, *_: drawn.append(figure))
    panels = {
        name: [PlateLine("a", [1, 2], [Measure(value, 9, 0.9 * value, 1.1 * value)] * 2)]
        for name, value in (("low", 0.1), ("high", 0.9))
    }
    lines_plate(*WORDS, panels, x_label="x", y_label="y", from_zero=True)
    for place in drawn[0].axes:
        low, high = place.get_ylim()
        assert low == 0 and high >= 0.99

"""Which statements of a reflection are true of a picture."""

import pytest
from hypothesis import given

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.statements import statements
from irg_rl.shapes_world.teacher import NOTHING, reflect
from tests.shapes_world.worlds import demands, metadata, readings, rngs, seen

TWO_RINGS = metadata(
    {"class": "ring", "count": 2}, {"class": "bar", "count": 1},
    exclude=({"class": "ring", "count": 3}, {"class": "bar", "count": 2}),
)  # fmt: skip
PICTURE = seen("red ring north, blue ring east, green ring west, red bar south")
SEES = "i see two ring at north west east : three extra , one bar at south : one ."
REMOVE = "one ring is extra . remove green ring at west ."


def said(text, reading=PICTURE, demand=TWO_RINGS):
    """The statements of a reflection, as (words, whether they are true)."""
    text = f"<think> {text} </think>"
    return [(text[one.begin : one.end].strip(" ,."), bool(one.score)) for one in statements(text, reading, demand)]


@pytest.mark.parametrize(("text", "expected"), [
    (f"{SEES} {REMOVE}", [True, True, True, True]),
    (f"{SEES.replace('three', 'four')} {REMOVE}", [False, True, True, True]),
    (f"{SEES} {NOTHING}", [True, True, False]),
    (f"{SEES} one ring is extra . remove red ring at west .", [True, True, False, False]),  # no red ring is there
    (f"{SEES} one bar is extra . remove red bar at south .", [True, True, False, False]),  # not a defect
    (f"{SEES} {REMOVE} one ring is extra . remove blue ring at east .", [True, True, True, False, True]),
    (f"{SEES} one ring is extra . remove the ring .", [True, True, False]),
    (SEES, [True, True, False]),
    (f"{SEES.replace('one bar', 'one bar at south : one , one bar')} {REMOVE}", [True, True, False, True, True]),
])  # fmt: skip
def test_each_statement_of_a_reflection_has_its_own_truth(text, expected):
    assert [true for _, true in said(text)] == expected


def test_an_edit_that_leaves_as_many_defects_is_false():
    """A bar is missing and a ring too many: one ring of a wrong shape. A new bar leaves the ring too many."""
    picture = seen("red ring north, blue ring east, green ring west")
    rows = said("one bar is missing . put red bar at south .", picture)
    assert rows[0] == ("one bar is missing . put red bar at south", False)
    rows = said("green ring is wrong shape . put green bar at west .", picture)
    assert rows[0][1]


def test_a_mended_object_may_show_a_broken_relation():
    demand = metadata({"class": "ring", "count": 1}, {"class": "bar", "count": 1, "position": ["below", 0]})
    assert said("one bar is missing . put red bar at north .", seen("red ring south"), demand)[0][1]


def test_a_text_that_is_no_reflection_is_one_false_statement():
    assert statements("paint it black", PICTURE, TWO_RINGS) == [(0, 14, 0.0)]


@given(readings, demands, rngs)
def test_statements_lie_in_the_text_in_their_order(reading, demand, rng):
    text, _ = reflect(reading, demand, rng, overlooked={"extra": 0.5, "shape": 0.5, "relation": 0.5})
    found = statements(text, reading, demand)
    places = [place for one in found for place in (one.begin, one.end)]
    assert places == sorted(places)
    assert places[-1] == len(text)


@given(readings, demands, rngs)
def test_what_the_teacher_sees_is_true_and_what_it_overlooks_makes_its_end_false(reading, demand, rng):
    text, edits = reflect(reading, demand, rng)
    *described, last = statements(text, reading, demand)
    assert all(one.score for one in described[: len(described) - len(edits)])
    if all(one.score for one in described):  # a move of two objects helps only when both are moved
        assert last.score == 1
    blind, _ = reflect(reading, demand, rng, overlooked=dict.fromkeys(("extra", "missing", "shape", "color"), 1.0))
    if blind != text and NOTHING in blind:
        assert statements(blind, reading, demand)[-1].score == float(judge(reading, demand).correct) == 0

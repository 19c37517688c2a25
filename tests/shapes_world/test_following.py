"""How true reflections are, and how well pictures follow them."""

import random
from dataclasses import replace

import pytest
from hypothesis import given

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.edits import plan_edits
from irg_rl.shapes_world.following import following, reflection_truth, statements_true
from irg_rl.shapes_world.scene import CELLS
from irg_rl.shapes_world.scenes import random_object
from irg_rl.shapes_world.teacher import NOTHING, STOP, parse_reflection, reflect, reflection_correct, reflection_text
from tests.shapes_world.worlds import demands, metadata, readings, rngs, seen

RED_AND_BLUE = metadata(
    {"class": "circle", "count": 1, "color": "red"}, {"class": "square", "count": 1, "color": "blue"}
)
BOTH_WRONG = seen("green circle northwest, yellow square center")


def reflection(*sentences: str) -> str:
    return f"<think> {' '.join(sentences)} </think>"


RECOLOR_CIRCLE = "green circle is wrong color . put red circle at northwest ."
RECOLOR_SQUARE = "yellow square is wrong color . put blue square at center ."
EXTRA_BAR = "one red bar is extra . remove red bar at south ."


@pytest.mark.parametrize(("text", "truth"), [
    (reflection(RECOLOR_CIRCLE, RECOLOR_SQUARE), 1.0),
    (reflection(RECOLOR_CIRCLE), 2 / 3),  # precision 1, recall 1 / 2
    (reflection(RECOLOR_CIRCLE, EXTRA_BAR), 0.5),  # both 1 / 2
    (reflection(EXTRA_BAR), 0.0),
    (STOP, 0.0),
    ("paint it black", 0.0),
])  # fmt: skip
def test_a_reflection_on_a_wrong_picture_is_worth_the_f1_of_its_statements(text, truth):
    assert reflection_truth(text, BOTH_WRONG, RED_AND_BLUE) == pytest.approx(truth)


@given(readings, demands, rngs)
def test_every_statement_of_the_teacher_about_what_it_sees_is_true(reading, demand, rng):
    assert statements_true(reflect(reading, demand, rng)[0], reading) == 1.0


@pytest.mark.parametrize(("sight", "share"), [
    ("i see one red circle : zero missing , one blue square : zero missing .", 1.0),
    ("i see one red circle at northwest : one , one blue square : zero missing .", 0.5),
    ("i see one circle at northwest : one .", 1.0),
    ("i see one bar : three extra .", 0.0),
    ("i see one circle at northwest : two extra .", 0.0),
    ("i see one circle at northwest north : two extra .", 0.0),
    ("i see one red circle : zero missing . also green circle at northwest , blur at south .", 2 / 3),
    ("i see nothing at all .", 0.0),
    ("", 0.0),
])  # fmt: skip
def test_what_a_reflection_says_it_sees_is_checked_without_the_prompt(sight, share):
    assert statements_true(f"<think> {sight} {NOTHING} </think>", BOTH_WRONG) == pytest.approx(share)


def test_on_a_right_picture_only_a_stop_is_true():
    right = seen("red circle northwest, blue square center")
    assert reflection_truth(STOP, right, RED_AND_BLUE) == 1.0
    assert reflection_truth(reflection(RECOLOR_CIRCLE), right, RED_AND_BLUE) == 0.0


@given(readings, demands, rngs)
def test_what_the_teacher_says_is_wholly_true(reading, demand, rng):
    text, edits = reflect(reading, demand, rng)
    if edits or judge(reading, demand).correct:  # a broken relation that no move mends goes unsaid
        truth = reflection_truth(text, reading, demand)
        named = min(len(judge(reading, demand).defects), 2)
        assert truth == pytest.approx(1.0) or len(edits) < named


@given(readings, readings, demands, rngs)
def test_a_wholly_true_reflection_is_a_correct_one(reading, other, demand, rng):
    """The graded score and the yes-or-no check agree, also on reflections about another picture."""
    text, _ = reflect(other, demand, rng)
    if reflection_truth(text, reading, demand) == 1.0:
        assert reflection_correct(parse_reflection(text), reading, demand)


def test_a_picture_follows_when_every_edit_is_done_and_the_rest_is_kept():
    asked = reflection(RECOLOR_CIRCLE, RECOLOR_SQUARE)
    assert following(asked, BOTH_WRONG, seen("red circle northwest, blue square center")) == 1.0
    assert following(asked, BOTH_WRONG, seen("red circle northwest, yellow square center")) == 0.5
    assert following(asked, BOTH_WRONG, BOTH_WRONG) == 0.0
    damaged = seen("red circle northwest, blue square center, red bar south")
    assert following(asked, BOTH_WRONG, damaged) == pytest.approx(6 / 7)  # one of seven other cells changed


def test_cells_that_cannot_be_read_before_are_not_counted_and_a_cell_that_becomes_unreadable_is_not_kept():
    asked, right = reflection(RECOLOR_CIRCLE), seen("red circle northwest, yellow square center")
    murky = replace(BOTH_WRONG, unclear=("north", "south"))
    assert following(asked, murky, right) == 1.0
    assert following(asked, BOTH_WRONG, replace(right, unclear=("south",))) == pytest.approx(7 / 8)


def test_noise_is_not_rewarded():
    """With an untrained model every cell is unreadable, before and after."""
    noise = replace(seen(""), unclear=tuple(CELLS))
    assert following(STOP, noise, noise) == following("paint it black", noise, noise) == 0.0


@pytest.mark.parametrize("text", [STOP, "paint it black"])
def test_a_text_that_asks_for_no_edit_asks_to_keep_the_picture(text):
    assert following(text, BOTH_WRONG, BOTH_WRONG) == 1.0
    assert following(text, BOTH_WRONG, seen("green circle northwest")) == pytest.approx(8 / 9)


@given(readings, demands, rngs)
def test_the_teachers_own_edits_are_followed_by_a_picture_that_has_them(reading, demand, rng):
    edits = plan_edits(reading, demand, rng)
    if not edits or len(reading.unclear) > 4:  # where most cells are unreadable, little shows that they were kept
        return
    board = {thing.cell: thing for thing in reading.objects}
    for edit in edits:
        old = board.pop(edit.cell, None)
        if edit.kind == "add":
            board[edit.cell] = random_object(edit.thing, edit.cell, random.Random(0))
        elif edit.kind == "recolor":
            board[edit.cell] = old._replace(color=edit.to)
        elif edit.kind == "reshape":
            board[edit.cell] = old._replace(shape=edit.to)
        elif edit.kind == "move":
            board[edit.to] = old._replace(cell=edit.to)
    touched = {cell for edit in edits for cell in (edit.cell, edit.to)}
    unclear = tuple(cell for cell in reading.unclear if cell not in touched)
    after = replace(reading, objects=tuple(board.values()), unclear=unclear)
    follows = following(reflection_text("", edits), reading, after)
    chained = {edit.cell for edit in edits} & {edit.to for edit in edits}  # one cell is left and entered again
    assert follows == 1.0 or chained

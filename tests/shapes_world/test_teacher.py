import re
from random import Random

import pytest
from hypothesis import given, settings

from irg_rl.shapes_world.check import DefectKind, judge
from irg_rl.shapes_world.constraints import Relation, Thing, make_metadata
from irg_rl.shapes_world.reading import Reading
from irg_rl.shapes_world.scene import CELLS, COLORS
from irg_rl.shapes_world.teacher import (
    STOP,
    is_stop,
    parse_reflection,
    reflect,
    reflection_correct,
    reflection_text,
    think_text,
)
from tests.shapes_world.worlds import PROMPTS, demands, readings, rngs, seen

TWO = make_metadata("color_attr", "", [(Thing("circle", "red"), 1), (Thing("bar", "cyan"), 1)], [])


def test_a_think_enumerates_in_the_order_of_the_prompt():
    includes = [(Thing("square", "blue"), 1), (Thing("circle", "red"), 2)]
    metadata = make_metadata("scene", "", includes, [])
    assert think_text(metadata) == "<think> i need one blue square , two red circle . </think>"


def test_a_think_restates_relations_as_they_were_said():
    includes = [(Thing("ring"), 1), (Thing("bar"), 1)]
    right = make_metadata("position", "", includes, [Relation(1, "right of", 0)])
    assert think_text(right) == "<think> i need one ring , one bar . bar right of ring . </think>"


@pytest.mark.parametrize("tag", sorted({prompt.metadata["tag"] for prompt in PROMPTS}))
def test_a_think_names_no_cell_and_no_color_that_the_prompt_leaves_open(tag):
    for prompt in PROMPTS:
        if prompt.metadata["tag"] != tag:
            continue
        words = think_text(prompt.metadata).split()
        assert not set(words) & set(CELLS) and not re.search(r"\b[a-d][1-4]\b", " ".join(words))
        assert set(words) & set(COLORS) == set(prompt.text.replace(",", " ").replace(".", " ").split()) & set(COLORS)


@pytest.mark.parametrize(
    "picture, text",
    [
        ("cyan bar a1", r"<think> one red circle is missing \. add red circle at .. \. </think>"),
        (
            "red circle a1, cyan bar b2, cyan bar c3",
            r"<think> one cyan bar is extra \. remove cyan bar at c3 \. </think>",
        ),
        ("blue circle a1, cyan bar b2", r"<think> blue circle is wrong color \. make circle at a1 red \. </think>"),
        ("red ring d4, cyan bar b2", r"<think> red ring is wrong shape \. make red ring at d4 circle \. </think>"),
        ("red circle a1, cyan bar b2", r"<think> nothing to change \. </think>"),
    ],
)
def test_a_reflection_names_the_defect_and_the_edit(picture, text):
    assert re.fullmatch(text, reflect(seen(picture), TWO, Random(0))[0])


def test_a_broken_relation_is_named_with_the_move():
    wanted = make_metadata("position", "", [(Thing("bar"), 1), (Thing("circle"), 1)], [Relation(1, "above", 0)])
    text, _ = reflect(seen("red circle a4, cyan bar b4"), wanted, Random(0))
    assert re.fullmatch(r"<think> circle is not above bar \. move red circle from a4 to .[123] \. </think>", text)


@settings(max_examples=300, deadline=None)
@given(readings, demands, rngs)
def test_a_reflection_is_short_parses_back_and_is_true(reading, wanted, rng):
    text, edits = reflect(reading, wanted, rng)
    parsed = parse_reflection(text)
    assert parsed.stop == is_stop(text) == (not edits) == judge(reading, wanted).correct
    assert len(text.split()) <= 36
    assert reflection_text(list(parsed.edits)) == text
    assert [(e.kind, e.thing, e.cell, e.to) for e in parsed.edits] == [(e.kind, e.thing, e.cell, e.to) for e in edits]
    assert reflection_correct(parsed, reading, wanted)


def _right(text: str, picture: str) -> bool:
    return reflection_correct(
        parse_reflection(text if text == STOP else f"<think> {text} </think>"), seen(picture), TWO
    )


def test_a_stop_is_right_on_a_right_picture_only():
    assert _right(STOP, "red circle a1, cyan bar b2")
    assert not _right(STOP, "red circle a1")


def test_a_claim_must_be_there_as_often_as_it_is_made():
    once = "one red circle is missing . add red circle at a1 ."
    assert _right(once, "cyan bar b2")
    assert not _right(f"{once} {once}", "cyan bar b2")
    assert not _right("one cyan bar is missing . add cyan bar at a1 .", "cyan bar b2")


def test_a_claim_about_a_right_picture_is_wrong():
    assert not _right("one red circle is missing . add red circle at c1 .", "red circle a1, cyan bar b2")


def test_some_of_several_defects_are_enough():
    assert _right("one cyan bar is missing . add cyan bar at a1 .", "green ring b2")


def test_a_wrong_color_may_be_called_missing():
    assert _right("one red circle is missing . add red circle at a1 .", "blue circle c1, cyan bar b2")
    both = "blue circle is wrong color . make circle at c1 red . one red circle is missing . add red circle at a1 ."
    assert not _right(both, "blue circle c1, cyan bar b2")


def test_the_cells_of_a_reflection_are_not_judged_but_its_defects_are():
    assert _right("blue circle is wrong color . make circle at d4 red .", "blue circle c1, cyan bar b2")
    assert not _right("green circle is wrong color . make circle at c1 red .", "blue circle c1, cyan bar b2")
    assert not _right("blue circle is wrong color . make circle at c1 green .", "blue circle c1, cyan bar b2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing to change .",
        "<think> </think>",
        "<think> nothing to change .",
        "<think> one dog is missing . add red dog at a1 . </think>",
        "<think> one red circle is missing . </think>",
        "<think> one red circle is missing . add red circle at e5 . </think>",
        "<think> one red circle is missing . add red circle at a1 . and so on </think>",
    ],
)
def test_what_is_not_in_the_grammar_is_not_parsed_and_never_right(text):
    assert parse_reflection(text) is None and not is_stop(text)
    assert not reflection_correct(None, Reading(()), TWO)


def test_a_parsed_reflection_keeps_the_defects():
    parsed = parse_reflection("<think> one circle is extra . remove red circle at a2 . </think>")
    (defect,) = parsed.defects
    assert (defect.kind, defect.thing, defect.cell) == (DefectKind.EXTRA, Thing("circle"), "a2")

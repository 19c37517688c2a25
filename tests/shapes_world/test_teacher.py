import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings

from irg_rl.shapes_world.check import DefectKind, judge
from irg_rl.shapes_world.constraints import Relation, Thing, make_metadata
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import CELLS, COLORS
from irg_rl.shapes_world.teacher import (
    STOP,
    is_stop,
    parse_reflection,
    reflect,
    reflection_correct,
    reflection_text,
    sight_text,
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
        assert not set(words) & set(CELLS)
        assert set(words) & set(COLORS) == set(prompt.text.replace(",", " ").replace(".", " ").split()) & set(COLORS)


@pytest.mark.parametrize(
    "picture, text",
    [
        (
            "cyan bar northwest",
            r"one red circle : zero missing , one cyan bar at northwest : one \. "
            r"one red circle is missing \. put red circle at north \.",
        ),
        (
            "red circle northwest, cyan bar southeast, cyan bar center",
            r"one red circle at northwest : one , one cyan bar at center southeast : two extra \. "
            r"one cyan bar is extra \. remove cyan bar at southeast \.",
        ),
        (
            "blue circle northwest, cyan bar center",
            r"one red circle : zero missing , one cyan bar at center : one \. also blue circle at northwest \. "
            r"blue circle is wrong color \. put red circle at northwest \.",
        ),
        (
            "red ring southeast, cyan bar center",
            r"one red circle : zero missing , one cyan bar at center : one \. also red ring at southeast \. "
            r"red ring is wrong shape \. put red circle at southeast \.",
        ),
        (
            "red circle northwest, cyan bar center, red ring southeast",
            r"one red circle at northwest : one , one cyan bar at center : one \. also red ring at southeast \. "
            r"nothing to change \.",
        ),
    ],
)
def test_a_reflection_says_what_it_sees_and_names_the_defect_and_the_edit(picture, text):
    assert re.fullmatch(rf"<think> i see {text} </think>", reflect(seen(picture), TWO, Random(0))[0])


def test_the_sight_names_no_open_color_and_what_cannot_be_read():
    wanted = make_metadata("counting", "", [(Thing("ring"), 2)], [])
    picture = seen("red ring northwest, blue ring center, green bar southeast")
    assert sight_text(picture, wanted) == "i see two ring at northwest center : two . also green bar at southeast ."
    blurred = replace(picture, unclear=("west",))
    assert sight_text(blurred, wanted).endswith("also green bar at southeast , blur at west .")


def test_a_relation_is_stated_where_both_ends_are_seen_and_a_broken_one_is_named_with_the_move():
    wanted = make_metadata("position", "", [(Thing("bar"), 1), (Thing("circle"), 1)], [Relation(1, "above", 0)])
    sees = "i see one bar at south : one , one circle at {} : one . circle at {} , bar at south : {} . "
    sees += "circle is {}above bar ."
    assert sight_text(seen("red circle north, cyan bar south"), wanted) == sees.format("north", "north", "above", "")
    assert sight_text(seen("cyan bar south"), wanted) == "i see one bar at south : one , one circle : zero missing ."
    text, _ = reflect(seen("red circle southwest, cyan bar south"), wanted, Random(0))
    broken = "circle is not above bar . free above bar at south : northwest north northeast west center east ."
    move = "remove red circle at southwest . put red circle at northwest ."
    assert text == f"<think> {sees.format('southwest', 'southwest', 'left of', 'not ')} {broken} {move} </think>"


def test_what_is_missing_is_put_into_the_first_free_cell_that_keeps_its_relations():
    includes = [(Thing("bar"), 1), (Thing("circle", "red"), 1), (Thing("ring"), 1)]
    wanted = make_metadata("scene", "", includes, [Relation(1, "below", 0), Relation(2, "left of", 1)])
    text, _ = reflect(seen("cyan bar north, green ring west"), wanted, Random(0))
    free = "free below bar at north and right of ring at west : center east south southeast ."
    assert text.endswith(f"one red circle is missing . {free} put red circle at center . </think>")


def test_a_relation_of_several_holds_where_it_holds_for_each():
    wanted = make_metadata("scene", "", [(Thing("bar"), 2), (Thing("circle"), 1)], [Relation(1, "above", 0)])
    text = sight_text(seen("red circle center, cyan bar south, red bar northwest"), wanted)
    assert text.endswith("circle at center , bar at northwest south : none . circle is not above bar .")


@settings(max_examples=300, deadline=None)
@given(readings, demands, rngs)
def test_a_reflection_is_short_parses_back_and_is_true(reading, wanted, rng):
    text, edits = reflect(reading, wanted, rng)
    parsed = parse_reflection(text)
    assert parsed.stop == is_stop(text) == (not edits) == judge(reading, wanted).correct
    assert len(text.split()) <= 176
    without_room = re.sub(r"free (left of|right of|above|below) [^.]*\. ", "", text)
    assert reflection_text(sight_text(reading, wanted), list(parsed.edits)) == without_room
    assert [(e.kind, e.thing, e.cell, e.to) for e in parsed.edits] == [(e.kind, e.thing, e.cell, e.to) for e in edits]
    assert reflection_correct(parsed, reading, wanted)


def test_what_the_teacher_passes_over_it_sees_and_leaves():
    picture = seen("red ring southeast, cyan bar west, cyan bar center")
    whole, _ = reflect(picture, TWO, Random(0))
    half, edits = reflect(picture, TWO, Random(0), overlooked={"shape": 1.0})
    assert [edit.defect.kind for edit in edits] == ["extra"]
    assert "wrong shape" in whole and "wrong shape" not in half and half.startswith(whole[: whole.index("red ring is")])
    assert is_stop(reflect(picture, TWO, Random(0), overlooked={"shape": 1.0, "extra": 1.0})[0])
    rng, lone = Random(0), seen("red ring southeast, cyan bar center")
    missed = sum(is_stop(reflect(lone, TWO, rng, 2, {"shape": 0.6})[0]) for _ in range(500))
    assert 250 < missed < 350


def test_a_relation_passed_over_moves_nothing_even_where_moves_hang_together():
    """Moving one of two objects that change places alone would put it onto the other."""
    wanted = make_metadata("position", "", [(Thing("bar"), 1), (Thing("circle"), 1)], [Relation(1, "above", 0)])
    text, edits = reflect(seen("red circle southwest, cyan bar south"), wanted, Random(0), 2, {"relation": 1.0})
    assert not edits and is_stop(text) and "circle is not above bar" in text
    with pytest.raises(ValueError, match="give one of them"):
        reflect(seen("red circle south"), wanted, Random(0), None, {"relation": 1.0})


def _right(text: str, picture: str) -> bool:
    return reflection_correct(
        parse_reflection(text if text == STOP else f"<think> {text} </think>"), seen(picture), TWO
    )


def test_a_stop_is_right_on_a_right_picture_only():
    assert _right(STOP, "red circle northwest, cyan bar center")
    assert not _right(STOP, "red circle northwest")


def test_a_claim_must_be_there_as_often_as_it_is_made():
    once = "one red circle is missing . put red circle at northwest ."
    assert _right(once, "cyan bar center")
    assert not _right(f"{once} {once}", "cyan bar center")
    assert not _right("one cyan bar is missing . put cyan bar at northwest .", "cyan bar center")


def test_a_claim_about_a_right_picture_is_wrong():
    assert not _right(
        "one red circle is missing . put red circle at northeast .", "red circle northwest, cyan bar center"
    )


def test_some_of_several_defects_are_enough():
    assert _right("one cyan bar is missing . put cyan bar at northwest .", "green ring center")


def test_a_wrong_color_may_be_called_missing():
    assert _right("one red circle is missing . put red circle at northwest .", "blue circle northeast, cyan bar center")
    missing = "one red circle is missing . put red circle at northwest ."
    both = f"blue circle is wrong color . put red circle at northeast . {missing}"
    assert not _right(both, "blue circle northeast, cyan bar center")


def test_the_cells_of_a_reflection_are_not_judged_but_its_defects_are():
    assert _right(
        "blue circle is wrong color . put red circle at southeast .", "blue circle northeast, cyan bar center"
    )
    assert not _right(
        "green circle is wrong color . put red circle at northeast .", "blue circle northeast, cyan bar center"
    )
    assert not _right(
        "blue circle is wrong color . put green circle at northeast .", "blue circle northeast, cyan bar center"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing to change .",
        "<think> </think>",
        "<think> nothing to change .",
        "<think> one dog is missing . put red dog at northwest . </think>",
        "<think> one red circle is missing . </think>",
        "<think> i see red circle at west : one . </think>",
        "<think> blue circle is wrong color . put red ring at northwest . </think>",
        "<think> one red circle is missing . put red circle at nowhere . </think>",
        "<think> one red circle is missing . put red circle at northwest . and so on </think>",
    ],
)
def test_what_is_not_in_the_grammar_is_not_parsed_and_never_right(text):
    assert parse_reflection(text) is None and not is_stop(text)
    assert not reflection_correct(None, PictureReading(()), TWO)


def test_a_parsed_reflection_keeps_the_defects():
    parsed = parse_reflection("<think> one circle is extra . remove red circle at west . </think>")
    (defect,) = parsed.defects
    assert (defect.kind, defect.thing, defect.cell) == (DefectKind.EXTRA, Thing("circle"), "west")

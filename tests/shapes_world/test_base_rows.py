"""Rows of the base model: the picture follows from the text, places included."""

import random
import re

import numpy as np
import pytest

from irg_rl.shapes_world.base_rows import BASE_MODES, DRAWING, EDITING, READING, base_example, edited, placed_scene
from irg_rl.shapes_world.constraints import NUMBERS
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.rows import decode_png, make_row
from irg_rl.shapes_world.scene import CELLS, RELATIONS, stands
from tests.shapes_world.worlds import PROMPTS, changed_cells


def stated(text: str) -> set[tuple[str, ...]]:
    return set(re.findall(r"(\w+) (\w+) at (\w+)", text))


def seen(pixels: np.ndarray) -> set[tuple[str, ...]]:
    return {(o.color, o.shape, o.cell) for o in read(pixels).objects}


@pytest.mark.parametrize("seed", range(30))
def test_a_drawing_and_a_reading_state_exactly_what_the_picture_shows(seed):
    [text], picture, _ = base_example(DRAWING, random.Random(seed))
    assert stated(text) == seen(picture)
    texts, picture, _ = base_example(READING, random.Random(seed))
    assert stated(texts[-1]) == seen(picture)


@pytest.mark.parametrize("seed", range(30))
def test_a_reading_finds_and_counts_what_it_is_asked_for(seed):
    texts, picture, _ = base_example(READING, random.Random(seed))
    objects = seen(picture)
    asked = texts[0].removeprefix("see ").removesuffix(" ?").split(" , ")
    said = texts[1].removeprefix("i see ").removesuffix(" .").split(" , ")
    assert len(set(asked)) == len(said) == 4
    for wanted, answer in zip(asked, said):
        number, thing = wanted.split(" ", 1)
        cells = [cell for cell in CELLS if any(f"{c} {s}".endswith(thing) and at == cell for c, s, at in objects)]
        at = f" at {' '.join(cells)}" if cells else ""
        lack = NUMBERS.index(number) - len(cells)
        wrong = " missing" if lack > 0 else " extra" if lack < 0 else ""
        assert answer == f"{wanted}{at} : {NUMBERS[len(cells)]}{wrong}"


def test_about_half_of_the_things_asked_for_are_absent():
    """So that an answer cannot be guessed from the question."""
    answers = " ".join(base_example(READING, random.Random(seed))[0][1] for seed in range(300))
    assert 0.35 < answers.count("zero") / 1200 < 0.6


def test_of_what_is_there_about_half_is_as_much_as_asked_for():
    answers = [base_example(READING, random.Random(seed))[0][1] for seed in range(300)]
    there = [said for answer in answers for said in answer.split(" , ") if "zero" not in said]
    wrong = {flag: np.mean([flag in said for said in there]) for flag in ("missing", "extra")}
    assert 0.15 < wrong["missing"] < 0.35 and 0.02 < wrong["extra"] < 0.35
    assert 0.4 < 1 - sum(wrong.values()) < 0.8


def test_about_half_of_the_relations_asked_for_fail_and_all_are_answered_by_the_picture():
    held = []
    for seed in range(300):
        texts, picture, _ = base_example(READING, random.Random(seed))
        if len(texts) < 6:
            continue
        for question, answer in (texts[2:4], texts[4:6]):
            first, name, second = re.fullmatch(r"is (.+) (left of|right of|above|below) (.+) \?", question).groups()
            one, other = (_cell(picture, thing) for thing in (first, second))
            held.append(stands(one, name, other))
            holding = " and ".join(name for name in RELATIONS if stands(one, name, other))
            told = f"{first} is {'' if held[-1] else 'not '}{name} {second} ."
            assert answer == f"{first} at {one} , {second} at {other} : {holding} . {told}"
    assert 0.4 < np.mean(held) < 0.6 and len(held) > 400


def test_the_free_cells_asked_for_are_empty_and_stand_in_the_relation():
    for seed in range(300):
        texts, picture, _ = base_example(READING, random.Random(seed))
        if len(texts) < 8:
            continue
        name, thing = re.fullmatch(r"free (left of|right of|above|below) (.+) \?", texts[6]).groups()
        place, taken = _cell(picture, thing), {cell for _, _, cell in seen(picture)}
        free = [cell for cell in CELLS if stands(cell, name, place) and cell not in taken]
        assert texts[7] == f"free {name} {thing} at {place} : {' '.join(free) or 'none'} ."


def _cell(picture, thing: str) -> str:
    (cell,) = [cell for color, shape, cell in seen(picture) if f"{color} {shape}" == thing]
    return cell


@pytest.mark.parametrize("seed", range(60))
def test_an_edit_changes_every_named_cell_and_no_other_pixel(seed):
    rng = random.Random(seed)
    scene = placed_scene(rng)
    text, after = edited(scene, rng)
    named = [cell for _, _, cell in re.findall(r"(\w+) (\w+) at (\w+)", text)]
    assert 1 <= len(named) == len(set(named))
    assert changed_cells(render(scene), render(after)) == set(named)


@pytest.mark.parametrize("seed", range(60))
def test_an_edit_puts_and_removes_what_it_says(seed):
    rng = random.Random(seed)
    scene = placed_scene(rng)
    text, after = edited(scene, rng)
    before, now = (seen(render(picture)) for picture in (scene, after))
    said = {verb: set(re.findall(rf"{verb} (\w+) (\w+) at (\w+)", text)) for verb in ("put", "remove")}
    assert said["put"] == now - before and said["remove"] <= before - now


@pytest.mark.parametrize("mode", BASE_MODES)
def test_rows_follow_the_irg_schema_with_one_thing_to_learn_per_question(mode):
    row = make_row(mode, PROMPTS[0], random.Random(3))
    parts = [part for turn in row if turn["role"] == "assistant" for part in turn["content"]]
    assert sum(part["need_loss"] for part in parts) == (5 if mode == READING else 1)
    for part in parts:
        if part["type"] == "image":
            assert decode_png(part["content"]).shape == (24, 24, 3)
            assert part["need_loss"] != (part["need_vae"] and part["need_vit"])


def test_an_edit_row_shows_the_old_picture_and_learns_the_new_one():
    parts = make_row(EDITING, PROMPTS[0], random.Random(5))[0]["content"]
    assert [part["type"] for part in parts] == ["image", "text", "image"]
    assert parts[0]["need_vae"] and parts[2]["need_loss"] and parts[0]["content"] != parts[2]["content"]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="base_drawing"):
        base_example("base_singing", random.Random(0))

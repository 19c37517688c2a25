from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import Thing, make_metadata
from irg_rl.shapes_world.edits import Edit, EditKind, apply_edits, plan_edits
from irg_rl.shapes_world.reading import PictureReading, read, scene_reading
from irg_rl.shapes_world.render import cell_slices, render, render_cell
from irg_rl.shapes_world.scene import Blob, Object, Scene
from irg_rl.shapes_world.scenes import corrupt, sample_scene, unreadable_seeds
from tests.shapes_world.worlds import changed_cells, demands, readings, rngs, seen


def _touched(edits: list[Edit]) -> set[str]:
    return {edit.cell for edit in edits} | {edit.to for edit in edits if edit.kind is EditKind.MOVE}


@settings(max_examples=200, deadline=None)
@given(demands, rngs, st.integers(1, 3))
def test_all_edits_together_make_a_corrupted_picture_right(wanted, rng, n_defects):
    scene = corrupt(sample_scene(wanted, rng), wanted, rng, n_defects)
    picture, reading = render(scene), scene_reading(scene)
    edits = plan_edits(reading, wanted, rng, max_fixes=None)
    assert judge(read(apply_edits(picture, reading, edits, rng)), wanted).correct


@settings(max_examples=200, deadline=None)
@given(readings, demands, rngs)
def test_all_edits_together_make_any_picture_right(reading, wanted, rng):
    picture = render(Scene(reading.background, reading.objects))
    smear = Blob("northwest", unreadable_seeds(reading.background)[0])
    for cell in reading.unclear:
        picture[cell_slices(cell)] = render_cell(reading.background, smear)
    edits = plan_edits(reading, wanted, rng, max_fixes=None)
    assert judge(read(apply_edits(picture, reading, edits, rng)), wanted).correct


@settings(max_examples=200, deadline=None)
@given(readings, demands, rngs, st.sampled_from([1, 2, None]))
def test_edits_change_only_the_cells_they_name(reading, wanted, rng, max_fixes):
    noise = np.random.default_rng(rng.randrange(1000)).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    edits = plan_edits(reading, wanted, rng, max_fixes)
    assert changed_cells(noise, apply_edits(noise, reading, edits, rng)) <= _touched(edits)


@given(readings, demands, rngs)
def test_a_right_picture_needs_no_edits_and_a_wrong_one_some(reading, wanted, rng):
    edits = plan_edits(reading, wanted, rng)
    assert (not edits) == judge(reading, wanted).correct and len(edits) <= 2


def test_a_near_miss_is_mended_rather_than_replaced():
    wanted = make_metadata("color_attr", "", [(Thing("circle", "red"), 1), (Thing("bar", "cyan"), 1)], [])
    (edit,) = plan_edits(seen("blue circle northwest, cyan bar north"), wanted, Random(0))
    assert (edit.kind, edit.thing, edit.cell, edit.to) == (
        EditKind.RECOLOR,
        Thing("circle", "blue"),
        "northwest",
        "red",
    )
    (edit,) = plan_edits(seen("red ring northwest, cyan bar north"), wanted, Random(0))
    assert (edit.kind, edit.thing, edit.cell, edit.to) == (
        EditKind.RESHAPE,
        Thing("ring", "red"),
        "northwest",
        "circle",
    )


def test_a_mended_object_keeps_everything_else():
    wanted = make_metadata("colors", "", [(Thing("circle", "red"), 1)], [])
    old = Object("circle", "blue", "small", "southeast", 1, -1)
    reading = PictureReading((old,))
    edits = plan_edits(reading, wanted, Random(0))
    edited = apply_edits(render(Scene(reading.background, (old,))), reading, edits, Random(0))
    assert read(edited).objects == (old._replace(color="red"),)


def test_what_is_missing_goes_to_the_unclear_cell():
    wanted = make_metadata("single_object", "", [(Thing("ring"), 1)], [])
    cells = {plan_edits(PictureReading((), ("east",)), wanted, Random(seed))[0].cell for seed in range(20)}
    assert cells == {"east"}


def test_what_is_missing_goes_where_its_relation_holds():
    wanted = make_metadata("position", "", [(Thing("square"), 1), (Thing("ring"), 1)], [])
    wanted["include"][1]["position"] = ["left of", 0]
    reading = PictureReading((Object("square", "red", "large", "north"),), ("southeast",))
    cells = {plan_edits(reading, wanted, Random(seed))[0].cell for seed in range(20)}
    assert cells == {"northwest"}


def test_a_broken_relation_is_mended_by_one_move():
    wanted = make_metadata("position", "", [(Thing("square"), 1), (Thing("ring"), 1)], [])
    wanted["include"][1]["position"] = ["above", 0]
    reading = seen("red ring southwest, blue square south")
    moved = set()
    for seed in range(40):
        (edit,) = plan_edits(reading, wanted, Random(seed))
        assert edit.kind is EditKind.MOVE
        moved.add(edit.thing)
    assert moved == {Thing("ring", "red")}  # nothing is below the bottom row, so the square cannot give way


def test_an_edit_of_an_empty_cell_is_refused():
    picture, reading = render(Scene((212, 212, 208))), PictureReading(())
    with pytest.raises(ValueError, match="cannot remove at northwest: nothing readable stands there"):
        apply_edits(picture, reading, [Edit(EditKind.REMOVE, Thing("ring", "red"), "northwest")], Random(0))


def test_the_picture_given_is_not_changed():
    picture = render(Scene((212, 212, 208), (Object("ring", "red", "large", "northwest"),)))
    before = picture.copy()
    apply_edits(picture, read(picture), [Edit(EditKind.REMOVE, Thing("ring", "red"), "northwest")], Random(0))
    assert np.array_equal(picture, before)

import numpy as np
import pytest
from hypothesis import given

from irg_rl.shapes_world.render import cell_slices, mask, render, render_cell
from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS, SIZES, Blob, Object, Scene, stands
from tests.shapes_world.worlds import changed_cells, scenes


def test_columns_go_from_left_to_right_and_rows_from_top_to_bottom():
    picture = render(
        Scene(BACKGROUNDS[2], (Object("square", "red", "large", "northeast"), Object("bar", "blue", "large", "west")))
    )
    assert picture.shape == (24, 24, 3) and picture.dtype == np.uint8
    assert tuple(picture[4, 20]) == COLORS["red"]
    assert tuple(picture[12, 4]) == COLORS["blue"]


@given(scenes)
def test_an_object_paints_its_own_cell_and_no_other(scene):
    empty = render(Scene(scene.background))
    assert changed_cells(empty, render(scene)) == {thing.cell for thing in scene.objects}


@given(scenes)
def test_a_picture_is_made_of_its_cells(scene):
    pasted = render(Scene(scene.background))
    for thing in scene.objects:
        pasted[cell_slices(thing.cell)] = render_cell(scene.background, thing)
    assert np.array_equal(pasted, render(scene))


@pytest.mark.parametrize("size, extent", SIZES.items())
@pytest.mark.parametrize("dx, dy", [(-1, 1), (0, 0), (1, -1)])
def test_a_shifted_object_stays_whole(size, extent, dx, dy):
    assert mask("square", size, dx, dy).sum() == pytest.approx(extent**2, rel=0.01)


def test_edges_are_smooth():
    assert 0 < ((mask("circle", "large", 0, 0) > 0) & (mask("circle", "large", 0, 0) < 1)).mean() < 0.6


def test_a_blob_always_looks_the_same():
    once, again = (render(Scene(BACKGROUNDS[0], (), (Blob("center", 7),))) for _ in range(2))
    assert np.array_equal(once, again) and changed_cells(once, render(Scene(BACKGROUNDS[0]))) == {"center"}


def test_relations_compare_columns_and_rows_strictly():
    assert (
        stands("southwest", "left of", "north")
        and not stands("southwest", "left of", "northwest")
        and stands("east", "right of", "center")
    )
    assert (
        stands("northeast", "above", "west")
        and stands("southeast", "below", "east")
        and not stands("southeast", "below", "southwest")
    )
    assert len(CELLS) == 9
    with pytest.raises(ValueError, match="unknown relation 'near'.*left of"):
        stands("northwest", "near", "north")

import numpy as np
import pytest

from irg_rl.report import strips


def flat(value: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_small_images_grow_by_whole_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grown = strips.fit(pixels)
    assert grown.shape == (128, 128, 3)
    np.testing.assert_array_equal(grown[::4, ::4], pixels)
    np.testing.assert_array_equal(grown[3::4, 3::4], pixels)


def test_large_images_shrink_and_keep_their_form():
    assert strips.fit(flat(10, 512, 1024)).shape == (192, 384, 3)
    assert strips.fit(flat(10, 200, 130)).shape == (200, 130, 3)


def test_frames_tell_right_from_wrong_from_unjudged():
    row = strips.strip([flat(1), flat(2), flat(3)], [True, False, None])
    side = 128 + 2 * strips.FRAME
    assert row.shape == (side, 3 * side + 2 * strips.GAP, 3)
    corners = [tuple(row[0, left]) for left in (0, side + strips.GAP, 2 * (side + strips.GAP))]
    assert corners == [strips.RIGHT, strips.WRONG, strips.UNKNOWN]
    assert [int(row[side // 2, left + side // 2, 0]) for left in (0, side + strips.GAP)] == [1, 2]


def test_pictures_on_canvases_of_one_size_keep_their_pixels():
    small, large = strips.same_size([flat(1, 20, 30), flat(2, 10, 50)])
    assert small.shape == large.shape == (20, 50, 3)
    assert (small[:, :30] == 1).all() and tuple(small[0, 40]) == strips.WHITE and tuple(large[15, 0]) == strips.WHITE
    assert strips.same_size([]) == []


def test_a_strip_of_nothing_or_with_lost_verdicts_is_refused():
    with pytest.raises(ValueError, match="got 0 and 0"):
        strips.strip([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        strips.strip([flat(0)], [True, False])

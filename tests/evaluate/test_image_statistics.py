import numpy as np
import pytest
from PIL import Image, ImageFilter

from irg_rl.evaluate.image_statistics import (
    EDGE,
    STATISTICS,
    colour_entropy,
    dark_share,
    edge_density,
    high_frequency_share,
    sharpness,
)


def board(side: int, cell: int, low: int = 60, high: int = 200) -> np.ndarray:
    """A grey chessboard whose fields have `cell` pixels."""
    y, x = np.indices((side, side)) // cell
    return np.repeat(np.where((y + x) % 2, high, low).astype(np.uint8)[:, :, None], 3, axis=2)


def ramp(side: int, slope: int) -> np.ndarray:
    """Grey values that rise by `slope` per pixel from left to right."""
    row = (slope * np.arange(side)).astype(np.uint8)
    return np.repeat(np.tile(row, (side, 1))[:, :, None], 3, axis=2)


def waves(side: int, cycles: float) -> np.ndarray:
    """A wave from left to right with this number of cycles per pixel."""
    row = 127.5 + 100 * np.sin(2 * np.pi * cycles * np.arange(side))
    return np.repeat(np.tile(row.astype(np.uint8), (side, 1))[:, :, None], 3, axis=2)


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def test_the_laplacian_of_a_chessboard_of_single_pixels_is_known():
    """Every neighbour differs by 140, so L is +560 or -560, half of each."""
    assert sharpness(board(34, 1)) == pytest.approx(560**2)


def test_a_ramp_is_smooth_however_steep_and_has_edges_from_the_threshold_on():
    assert sharpness(ramp(12, 20)) == pytest.approx(0, abs=1e-9)
    assert edge_density(ramp(12, int(EDGE) + 1)) == 1.0 and edge_density(ramp(12, int(EDGE) - 1)) == 0.0


def test_a_step_has_two_columns_of_edges():
    image = np.zeros((10, 12, 3), np.uint8)
    image[:, 6:] = 40  # the gradient is 20 on both sides of the step
    assert edge_density(image) == pytest.approx(2 / 10)
    image[:, 6:] = 30
    assert edge_density(image) == 0


@pytest.mark.parametrize(("cycles", "share"), [(0.1, 0.0), (0.4, 1.0)])
def test_the_power_of_a_wave_lies_at_its_frequency(cycles, share):
    assert high_frequency_share(waves(64, cycles)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)
def test_each_falls_with_every_step_of_blur_in_an_image_of_any_shape(statistic):
    texture = np.random.default_rng(0).integers(0, 256, (96, 64, 1), dtype=np.uint8).repeat(3, axis=2)
    values = [statistic(texture), *(statistic(blurred(texture, radius)) for radius in (0.5, 1, 1.5))]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4


def test_an_image_too_small_or_of_one_colour_has_no_fine_detail_to_measure():
    plain = np.full((8, 8, 3), 90, np.uint8)
    assert np.isnan(high_frequency_share(plain)) and sharpness(plain) == edge_density(plain) == 0
    assert all(np.isnan(statistic(plain[:2])) for statistic in STATISTICS.values())


def test_the_dark_share_counts_pixels_below_a_quarter_of_the_range():
    assert dark_share(board(8, 2, low=63, high=65)) == 0.5 and dark_share(board(8, 2, low=64, high=200)) == 0.0


def test_the_entropy_of_colours_is_that_of_their_shares():
    picture = board(8, 4)
    assert colour_entropy(picture) == pytest.approx(1.0)
    picture[:4, :4] = (255, 0, 0)  # shares 1/4, 1/4, 1/2
    assert colour_entropy(picture) == pytest.approx(1.5)
    assert str(colour_entropy(board(8, 2, low=33, high=34))) == "0.0"  # one step of eight

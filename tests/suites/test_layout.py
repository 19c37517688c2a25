"""Every suite's images lie where its official evaluator looks for them (layouts.py, written by hand)."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from irg_rl.suites import NAMES
from irg_rl.suites.base import Picture
from irg_rl.suites.catalog import SUITES, suite_of
from irg_rl.suites.trees import FINAL, encoded, is_whole, write_picture
from irg_rl.trajectory import Prompt
from tests.suites.layouts import GRIDS, LAYOUTS, LOSSY, SIDE_FILES
from tests.suites.official import GENEVAL, write_official


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_names_on_the_command_line_are_those_of_the_catalog():
    assert set(NAMES) == set(SUITES) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_lie_where_the_official_evaluator_looks_for_them(name, tmp_path):
    suite = suite_of(name)
    pictures = suite.pictures(suite.read_prompts(write_official(name, tmp_path)), "mymodel")
    assert sorted(p.path for p in pictures) == LAYOUTS[name]
    assert sorted(suite.side_files(pictures)) == SIDE_FILES.get(name, [])
    assert {len(p.samples) for p in pictures} == ({4} if name in GRIDS else {1})


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_are_without_loss_unless_the_suite_wants_jpeg(name):
    pixels, path = random_image(), LAYOUTS[name][0]
    again = decoded(encoded([pixels], path))
    if any(path.endswith(ending) for ending in LOSSY):
        flat = np.full_like(pixels, 77)
        assert np.abs(decoded(encoded([flat], path)).astype(int) - flat).max() <= 1
    else:
        assert np.array_equal(again, pixels)


def test_geneval_gets_each_prompts_own_object_beside_its_images(tmp_path):
    suite = suite_of("geneval")
    pictures = suite.pictures(suite.read_prompts(write_official("geneval", tmp_path)), "m")
    files = suite.side_files(pictures)
    assert [json.loads(files[f"{n:05d}/metadata.jsonl"]) for n in range(3)] == GENEVAL


def test_four_samples_of_a_grid_stand_row_by_row():
    tiles = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (10, 20, 30, 40)]
    grid = decoded(encoded(tiles, "000.webp"))
    assert grid.shape == (8, 8, 3)
    assert [grid[0, 0, 0], grid[0, 7, 0], grid[7, 0, 0], grid[7, 7, 0]] == [10, 20, 30, 40]


def test_a_trajectory_that_stopped_fills_the_later_trees_with_its_last_image(tmp_path):
    first, last = random_image(1), random_image(2)
    write_picture(tmp_path, Picture("7.png", Prompt("7", "x"), (0,)), [[first], [last], [last]])
    shown = {tree: decoded((tmp_path / tree / "7.png").read_bytes()) for tree in ("turn0", "turn1", "turn2", FINAL)}
    assert np.array_equal(shown["turn0"], first)
    assert all(np.array_equal(shown[tree], last) for tree in ("turn1", "turn2", FINAL))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_a_file_that_was_cut_off_is_not_whole(tmp_path, ending):
    path, data = tmp_path / f"a{ending}", encoded([random_image()], f"a{ending}")
    path.write_bytes(data)
    assert is_whole(path)
    path.write_bytes(data[:-5])
    assert not is_whole(path)
    path.write_bytes(b"")
    assert not is_whole(path) and not is_whole(tmp_path / "none.png")

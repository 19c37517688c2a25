"""Two checkers that share no code say the same, so that a figure does not hang on the quirks of one."""

import random

import numpy as np
import pytest

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read_batch
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import COLUMN, ROW
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from tests.shapes_world.second_checker import Seen, is_right, see, verdict
from tests.shapes_world.worlds import metadata, random_scenes

PROMPTS = [*make_prompts(150, "test", 0), *make_prompts(100, "hard", 0)]


def pictures(seed: int, broken: float = 0.6) -> np.ndarray:
    """One per prompt; a share of them has one or two defects, some have an unreadable cell, some a thing nobody asked
    for."""
    rng, drawn = random.Random(seed), []
    for prompt in PROMPTS:
        scene = sample_scene(prompt.metadata, rng, distractor_share=0.3)
        if rng.random() < broken:
            scene = corrupt(scene, prompt.metadata, rng, rng.choice([1, 2]), clutter_share=0.2)
        drawn.append(render(scene))
    return np.stack(drawn)


def noisy(images: np.ndarray, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(images + rng.normal(0, sigma, images.shape), 0, 255).astype(np.uint8)


def blurred(images: np.ndarray) -> np.ndarray:
    """A 3 x 3 binomial blur over the borders of cells."""
    wide = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * wide[:, :-2] + 0.5 * wide[:, 1:-1] + 0.25 * wide[:, 2:]
    return np.rint(0.25 * rows[:, :, :-2] + 0.5 * rows[:, :, 1:-1] + 0.25 * rows[:, :, 2:]).astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda images: images, id="as rendered"),
        pytest.param(lambda images: noisy(images, 8), id="noise of 8 grey levels"),
        pytest.param(lambda images: noisy(images, 16), id="noise of 16"),
        pytest.param(blurred, id="blurred"),
        pytest.param(lambda images: noisy(blurred(images), 8), id="blurred, then noise"),
    ],
)
def test_both_checkers_say_the_same_on_97_of_100_pictures(change):
    images = change(pictures(seed=1))
    first = [judge(reading, prompt.metadata).correct for reading, prompt in zip(read_batch(images), PROMPTS)]
    second = [verdict(image, prompt.metadata) for image, prompt in zip(images, PROMPTS)]
    assert np.mean(np.array(first) == np.array(second)) >= 0.97
    assert 0.25 < np.mean(first) < 0.75  # neither verdict is rare, so that saying always the same would not do


def test_the_second_checker_reads_scenes_as_they_were_drawn():
    """At least 97 of 100 objects, and no other. Some stand farther off the middle than the world draws them."""
    drawn = read = 0
    for scene in random_scenes(200, seed=3):
        there = {Seen(o.shape, o.color, COLUMN[o.cell], ROW[o.cell]) for o in scene.objects}
        found = set(see(render(scene)))
        assert found <= there
        drawn, read = drawn + len(there), read + len(found)
    assert read >= 0.97 * drawn


def test_its_verdict_follows_the_rule_of_the_documentation():
    two_bars_below_a_ring = metadata(
        {"class": "ring", "count": 1, "color": "red"}, {"class": "bar", "count": 2, "position": ["below", 0]},
        exclude=({"class": "ring", "count": 2}, {"class": "bar", "count": 3}),
    )  # fmt: skip
    ring, low, lower = Seen("ring", "red", 0, 0), Seen("bar", "blue", 1, 1), Seen("bar", "cyan", 2, 2)
    level, other_ring, cross = Seen("bar", "cyan", 2, 0), Seen("ring", "blue", 2, 1), Seen("cross", "red", 2, 1)
    assert is_right([ring, low, lower], two_bars_below_a_ring)
    assert is_right([ring, low, lower, cross], two_bars_below_a_ring)  # nobody mentioned crosses
    assert not is_right([ring, low], two_bars_below_a_ring)
    assert not is_right([ring, low, level], two_bars_below_a_ring)
    assert not is_right([ring, low, lower, other_ring], two_bars_below_a_ring)
    assert not is_right([ring, low, lower, Seen("bar", "red", 0, 2)], two_bars_below_a_ring)

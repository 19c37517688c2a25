"""The sizes of what travels through the object store, against groups that were really drawn."""

import pickle

import pytest

from irg_rl.config import adapters_of
from irg_rl.learner.sizes import published_bytes
from irg_rl.trajectory import Group
from rollouts.traffic import SMALLEST, SPARE, group_bytes, recorded_steps, store_bytes
from tests.driver.begun import begun_run


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_a_group_is_about_as_large_as_one_that_was_drawn(world, tmp_path, algorithm):
    recorded = algorithm == "grpo"
    noise = {"window": "all"} if recorded else None
    recipe = begun_run(world, tmp_path, rl={"algorithm": algorithm, "noise": noise, "group_size": 4}).recipe
    sampling = recipe.rl_sampling
    drawn = world.sample(4, sampling, recipe.rl.noise, record_steps=recorded)
    sent = len(pickle.dumps(Group(0, drawn[0].prompt, drawn), protocol=5))
    assert recorded_steps(recipe) == (sampling.points - 1 if recorded else 0)
    images = sum(len(t.images) for t in drawn)
    bodies = sum(
        x.nbytes for t in drawn for i in t.images for x in (i.pixels, i.latent, i.x, i.x_next, i.mean, i.drawn)
    )
    largest = group_bytes(recipe) / (4 * sampling.turns)
    assert bodies / images <= largest < sent / images


def test_the_store_holds_two_publications_and_every_group_twice(world, tmp_path):
    recipe = begun_run(world, tmp_path).recipe
    assert store_bytes(recipe) == SMALLEST
    large = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"groups": 100_000, "staleness": 2})})
    weights = published_bytes(recipe.model, adapters_of(recipe.rl))
    assert store_bytes(large) == round(SPARE * (2 * weights + 2 * 3 * 100_000 * group_bytes(recipe)))

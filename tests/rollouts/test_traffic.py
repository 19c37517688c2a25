"""The sizes of what travels through the object store, against groups that were really drawn."""

import pytest

from irg_rl.config import adapters_of
from irg_rl.learner.sizes import published_bytes
from rollouts.traffic import SMALLEST, SPARE, TOKEN_BYTES, group_bytes, recorded_steps, store_bytes
from tests.driver.begun import begun_run


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_the_images_of_a_group_are_as_large_as_those_that_were_drawn(world, tmp_path, algorithm):
    recorded = algorithm == "grpo"
    noise = {"window": "all"} if recorded else None
    recipe = begun_run(world, tmp_path, rl={"algorithm": algorithm, "noise": noise, "group_size": 4}).recipe
    sampling = recipe.rl_sampling
    drawn = world.sample(4, sampling, recipe.rl.noise, record_steps=recorded)
    assert recorded_steps(recipe) == (sampling.points - 1 if recorded else 0)
    image = drawn[0].images[0]
    body = sum(tensor.nbytes for tensor in (image.pixels, image.latent, image.drawn, image.x, image.x_next, image.mean))
    assert group_bytes(recipe) == 4 * sampling.turns * (body + TOKEN_BYTES * sampling.max_text_tokens)


def test_the_store_holds_two_publications_and_every_group_twice(world, tmp_path):
    recipe = begun_run(world, tmp_path).recipe
    assert store_bytes(recipe) == SMALLEST
    large = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"groups": 100_000, "staleness": 2})})
    weights = published_bytes(recipe.model, adapters_of(recipe.rl))
    assert store_bytes(large) == round(SPARE * (2 * weights + 2 * 3 * 100_000 * group_bytes(recipe)))

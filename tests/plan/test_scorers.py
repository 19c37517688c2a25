"""The memory of models that score images."""

import pytest

from irg_rl.config import ScorerRecipe, load_recipe
from irg_rl.plan.scorers import on_gpu, scorer_memory
from tests.paths import CONFIGS

HPS = ScorerRecipe(name="hps", kind="hps", path="hps.pt", options={"model": "ViT-H-14"})


def test_the_weights_are_those_of_the_released_models_in_their_number_type():
    assert scorer_memory(HPS).weights == 4 * 986_109_441  # the parameters of ViT-H-14
    half = HPS.model_copy(update={"options": {"model": "ViT-H-14", "precision": "pure_bf16"}})
    assert scorer_memory(half).weights == 2 * 986_109_441
    assert scorer_memory(half).working < scorer_memory(HPS).working


def test_the_working_memory_follows_the_batch_and_holds_the_widest_layer():
    small = scorer_memory(HPS.model_copy(update={"options": {"model": "ViT-H-14", "batch_size": 8}}))
    full = scorer_memory(HPS)
    assert full.working == pytest.approx(4 * small.working, rel=0.05)
    assert full.working > 4 * 32 * 257 * 4 * 1280  # 32 images, 257 tokens, four times the width in the MLP


@pytest.mark.parametrize(("kind", "options"), [
    ("judge", {}), ("verifier", {}), ("my.scorers:Sharp", {}), ("clip", {}), ("clip", {"model": "no-such-model"}),
])  # fmt: skip
def test_a_model_that_is_not_known_is_not_counted(kind, options):
    assert scorer_memory(ScorerRecipe(name="a", kind=kind, options=options)) is None


def test_scorers_on_a_card_take_all_weights_and_the_largest_working_memory():
    recipe = load_recipe(CONFIGS / "bagel-lora-grpo.yaml")
    found = [scorer_memory(scorer) for scorer in recipe.rewards.scorers if scorer.kind != "judge"]
    assert len(found) == 2
    assert on_gpu(recipe) == sum(one.weights for one in found) + max(one.working for one in found)
    assert on_gpu(load_recipe(CONFIGS / "bagel-lora-grpo.yaml", ["rewards.device=cpu"])) == 0

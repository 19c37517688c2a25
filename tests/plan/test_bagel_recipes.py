"""The recipes for RL on BAGEL fit the cards that they name, by the plan."""

import pytest
import yaml

from irg_rl.config import load_recipe
from irg_rl.plan.advice import candidates
from irg_rl.plan.costs import EVALUATION, LEARNER, ROLLOUT, Plan
from irg_rl.plan.scorers import on_gpu
from tests.paths import CONFIGS

H100, H200 = 80, 139
"""GiB of a card, as its driver reports it."""
CARDS = {
    "bagel-lora-grpo": H100, "bagel-lora-nft": H100, "bagel-lora-awm": H100, "bagel-lora-dpo": H100, "bagel-grpo": H200,
    "bagel-irgl": H100,
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", CARDS)
OF_RL = pytest.mark.parametrize("name", [name for name in CARDS if name != "bagel-irgl"])
GIB = 2**30
FEW = "rl.groups=4"
"""The longest packs and contexts are the same with few groups, and they are built in less time."""


@EVERY
def test_each_fits_eight_of_its_cards_with_a_tenth_to_spare(name):
    recipe = load_recipe(CONFIGS / f"{name}.yaml", [FEW])
    assert recipe.engine.learner_ranks + recipe.engine.rollout_actors == 8
    for place in Plan(recipe).places:
        assert place.peak <= 0.9 * CARDS[name] * GIB, f"{place.name}: {place.peak / GIB:.1f} GiB"


LORA = "lora={rank: 64, alpha: 128}"


@pytest.mark.parametrize(("name", "more", "card"), [
    ("bagel-sft-stage1", [], H200), ("bagel-sft-stage2", [], H200),
    ("bagel-sft-stage1", [f"sft.stage1.{LORA}"], H100), ("bagel-sft-stage2", [f"sft.stage2.{LORA}"], H100),
    ("bagel-irgl", ["sft.zero_stage=2", FEW], H200),
])  # fmt: skip
def test_sft_fits_eight_cards_as_the_table_of_the_rehearsal_says(name, more, card):
    plan = Plan(load_recipe(CONFIGS / f"{name}.yaml", more))
    assert max(place.peak for place in plan.places) <= 0.9 * card * GIB


@pytest.mark.parametrize("name", ["bagel-sft-stage1", "bagel-sft-stage2"])
def test_sft_of_all_weights_does_not_fit_small_cards(name):
    plan = Plan(load_recipe(CONFIGS / f"{name}.yaml"))
    assert max(place.peak for place in plan.places) > H100 * GIB


def test_scorers_are_counted_beside_a_rollout_actor_and_in_evaluation_unless_they_are_on_the_cpu():
    recipes = [load_recipe(CONFIGS / "bagel-lora-grpo.yaml", [FEW, *more]) for more in ([], ["rewards.device=cpu"])]
    for name in (ROLLOUT, EVALUATION):
        there, elsewhere = (Plan(recipe).place(name).peak for recipe in recipes)
        assert there - elsewhere == on_gpu(recipes[0]) > 5 * GIB
        assert ("rewards.device", ["cpu"]) in candidates(recipes[0], name)
        assert ("rewards.device", ["cpu"]) not in candidates(recipes[1], name)


def test_all_weights_do_not_fit_eight_small_cards_even_without_a_kl_term():
    plan = Plan(load_recipe(CONFIGS / "bagel-grpo.yaml", [FEW, "rl.kl_image=0"]))
    assert plan.place(LEARNER).peak > H100 * GIB


@EVERY
def test_texts_have_room_for_the_reference_s_reflections_and_images_a_tie_to_the_first_weights(name):
    recipe = load_recipe(CONFIGS / f"{name}.yaml")
    assert recipe.sampling.max_text_tokens == load_recipe(CONFIGS / "bagel-sft-stage1.yaml").sampling.max_text_tokens
    assert recipe.sampling.max_text_tokens > 600
    assert recipe.rl.kl_image > 0 or recipe.rl.algorithm == "dpo"
    assert recipe.rl.guidance is None and recipe.evaluation.guidance.is_on


def test_all_stages_of_bagel_irgl_use_all_eight_cards():
    recipe = load_recipe(CONFIGS / "bagel-irgl.yaml")
    assert {recipe.sft_ranks(stage) for stage in recipe.sft.stages.values()} == {8}


@OF_RL
def test_each_says_its_cards_and_only_what_differs(name):
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert written["description"].endswith(f"needs 8 GPUs of {'80' if CARDS[name] == H100 else '141'} GB.")
    if name != "bagel-lora-grpo":
        assert written["extends"] == "bagel-lora-grpo.yaml" and "model" not in written and "sampling" not in written
        below = load_recipe(CONFIGS / "bagel-lora-grpo.yaml").model_dump()
        own = load_recipe(CONFIGS / f"{name}.yaml").model_dump()
        assert {section for section in own if own[section] != below[section]} <= {
            "name", "description", "rl", "rewards", "engine",
        }  # fmt: skip

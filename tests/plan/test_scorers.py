"""The memory of models that score images."""

import numpy as np
import pytest
import torch

from irg_rl.commands.plan import scorer_table
from irg_rl.config import ScorerRecipe, load_recipe
from irg_rl.model.footprint import LiveBytes
from irg_rl.plan.scorers import on_gpu, scorer_memory
from irg_rl.trajectory import Prompt
from rewards.mllm import MllmScorer
from rewards.pickscore import PickScorer
from tests.paths import CONFIGS
from tests.rewards import released

SIZE = (512, 512)
HPS = ScorerRecipe(name="hps", kind="hps", path="hps.pt", options={"model": "ViT-H-14"})


def test_the_weights_are_those_of_the_released_models_in_their_number_type():
    assert scorer_memory(HPS, SIZE).weights == 4 * 986_109_441  # the parameters of ViT-H-14
    half = HPS.model_copy(update={"options": {"model": "ViT-H-14", "precision": "pure_bf16"}})
    assert scorer_memory(half, SIZE).weights == 2 * 986_109_441
    assert scorer_memory(half, SIZE).working < scorer_memory(HPS, SIZE).working


def test_the_working_memory_follows_the_batch_and_holds_the_widest_layer():
    small = scorer_memory(HPS.model_copy(update={"options": {"model": "ViT-H-14", "batch_size": 8}}), SIZE)
    full = scorer_memory(HPS, SIZE)
    assert full.working == pytest.approx(4 * small.working, rel=0.05)
    assert full.working > 4 * 32 * 257 * 4 * 1280  # 32 images, 257 tokens, four times the width in the MLP


@pytest.mark.parametrize(("kind", "options"), [
    ("judge", {}), ("verifier", {}), ("my.scorers:Sharp", {}), ("clip", {}), ("clip", {"model": "no-such-model"}),
])  # fmt: skip
def test_a_model_that_is_not_known_is_not_counted(kind, options):
    assert scorer_memory(ScorerRecipe(name="a", kind=kind, options=options), SIZE) is None


def test_scorers_on_a_card_take_all_weights_and_the_largest_working_memory():
    recipe = load_recipe(CONFIGS / "bagel-lora-grpo.yaml")
    size = recipe.sampling.image_size
    found = [scorer_memory(scorer, size) for scorer in recipe.rewards.scorers if scorer.kind != "judge"]
    assert len(found) == 2
    assert on_gpu(recipe) == sum(one.weights for one in found) + max(one.working for one in found)
    assert on_gpu(load_recipe(CONFIGS / "bagel-lora-grpo.yaml", ["rewards.device=cpu"])) == 0


def test_the_plan_says_which_models_leave_the_gpu_while_the_learner_works():
    def places(*overrides):
        return list(scorer_table(load_recipe(CONFIGS / "bagel-lora-grpo.yaml", overrides)).columns[1].cells)

    shared = ["engine.learner_ranks=1", "engine.gpu_share=0.5"]
    moved = places(*shared, "rewards.offload=true")
    assert moved.count("critic, cuda; main memory while the learner works") == 2
    assert [place.partition(";")[0] for place in moved] == places(*shared)


def measured(scorer, model, count, side):
    """The peak of bytes, beside the weights, while `count` images are scored."""
    images = [np.zeros((side, side, 3), dtype=np.uint8)] * count
    with torch.inference_mode(), LiveBytes(list(model.state_dict().values())) as live:
        scorer.score(images, [Prompt(str(number), "a red circle") for number in range(count)])
    return live.peak


def test_a_pickscore_model_is_counted_from_the_sizes_in_its_folder(tmp_path):
    released.pickscore(tmp_path)
    scorer = ScorerRecipe(name="p", kind="pickscore", path=str(tmp_path), options={"batch_size": 4})
    found, made = scorer_memory(scorer, SIZE), PickScorer(tmp_path, batch_size=4)
    assert found.weights == sum(parameter.nbytes for parameter in made.model.parameters())
    assert found.working == pytest.approx(measured(made, made.model, 4, 16), rel=0.5)
    half = scorer.model_copy(update={"options": {"batch_size": 4, "precision": "bf16"}})
    assert scorer_memory(half, SIZE).weights == found.weights / 2


def test_an_mllm_is_counted_from_the_sizes_in_its_folder_and_grows_with_images_up_to_its_limit(tmp_path):
    released.qwen_vl(tmp_path, answers=("yes", "no"))
    options = {"batch_size": 2, "precision": "fp32", "max_pixels": 4096}
    scorer = ScorerRecipe(name="m", kind="mllm", path=str(tmp_path), options=options)
    made = MllmScorer(tmp_path, **options)
    found, small, large = (scorer_memory(scorer, size) for size in ((64, 64), (32, 32), (128, 128)))
    assert found.weights == sum(parameter.nbytes for parameter in made.model.parameters())
    assert 0.5 < found.working / measured(made, made.model, 2, 64) < 2
    assert small.working < found.working == large.working
    edits = scorer_memory(scorer.model_copy(update={"of": "edit"}), (64, 64))
    assert edits.working > found.working


def test_a_folder_that_is_not_here_is_not_counted():
    for kind in ("pickscore", "mllm"):
        assert scorer_memory(ScorerRecipe(name="a", kind=kind, path="/no/such"), SIZE) is None

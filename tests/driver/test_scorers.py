"""A recipe's scorers as the rewards room wants them."""

from pathlib import Path

import pytest

from irg_rl.algorithms.base import reward_weights
from irg_rl.config import RewardRecipe
from irg_rl.driver.room import CRITIC, LEARNER, ROLLOUT, asked_by_rl
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import scorer_specs
from rewards.build import ScorerSpec


def specs(recipe, *scorers: dict) -> dict[str, dict]:
    run = Run.create(recipe.model_copy(update={"rewards": RewardRecipe(scorers=list(scorers))}))
    with scorer_specs(run.recipe, run.path("scorers")) as found:
        return {spec["name"]: spec for spec in found}


def test_options_of_a_recipe_reach_the_constructor(recipe):
    found = specs(recipe, {"name": "hps", "kind": "hps", "path": "/m/hps.pt", "options": {"model": "ViT-H-14"}})
    assert found["hps"]["options"] == {"path": "/m/hps.pt", "model": "ViT-H-14", "device": "cpu"}
    assert ScorerSpec.from_dict(found["hps"]).options == found["hps"]["options"]


def test_scorers_of_images_are_where_the_engine_is_unless_the_recipe_says_otherwise(recipe):
    on_gpu = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"device": "cuda"})})
    clip = {"name": "c", "kind": "clip", "path": "/m/clip"}
    judge = {"name": "j", "kind": "judge", "base_url": "http://host:1/v1"}
    found = specs(on_gpu, clip, judge)
    assert found["c"]["options"]["device"] == "cuda" and "device" not in found["j"]["options"]
    own = specs(on_gpu, clip | {"options": {"device": "cuda:1"}})
    assert own["c"]["options"]["device"] == "cuda:1"
    with scorer_specs(
        on_gpu.model_copy(update={"rewards": RewardRecipe(scorers=[clip], device="cpu")}), Path("scorers")
    ) as [spec]:
        assert spec["options"]["device"] == "cpu"


def test_small_scorers_are_those_that_the_run_trained(recipe):
    found = specs(recipe, {"name": "a", "kind": "clip"})
    assert found["a"]["options"]["path"].endswith("shapes-smoke/scorers/clip")


def test_a_judge_elsewhere_gets_its_address_and_the_name_of_its_key_only(recipe, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame-0123456789")
    judge = {"name": "j", "kind": "judge", "base_url": "http://host:1/v1", "model": "m", "api_key_env": "MY_KEY"}
    options = specs(recipe, judge)["j"]["options"]
    assert options["base_url"] == "http://host:1/v1" and options["api_key_env"] == "MY_KEY"
    assert "sesame" not in str(options)


def test_folders_of_a_judge_are_those_of_the_caller_whatever_the_folder_of_the_actor(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parts = {"name": "p", "kind": "decomposed", "base_url": "http://host:1/v1", "model": "m"}
    folders = {"split_folder": "splits", "cache_folder": "/kept"}
    options = specs(recipe, parts | {"options": folders})["p"]["options"]
    assert (options["split_folder"], options["cache_folder"]) == (str(tmp_path / "splits"), "/kept")


@pytest.mark.parametrize(("scorer", "here"), [
    ({"kind": "judge"}, True),
    ({"kind": "judge", "base_url": "http://127.0.0.1:8000/v1"}, True),
    ({"kind": "judge", "base_url": "http://localhost:8000/v1"}, True),
    ({"kind": "geneval2", "base_url": "http://[::1]:8000/v1"}, True),
    ({"kind": "judge", "base_url": "http://10.0.0.7:8000/v1"}, False),
    ({"kind": "judge", "base_url": "http://[no address"}, False),
    ({"kind": "verifier"}, False),
])  # fmt: skip
def test_critics_that_ask_a_server_of_this_machine_stay_beside_the_driver(recipe, scorer, here):
    """Critics on other nodes asked their own machine for the judge."""
    rewards = RewardRecipe(scorers=[{"name": "s", **scorer}])
    engine = recipe.engine.model_copy(update={"critics": 2})
    one = recipe.model_copy(update={"rewards": rewards, "engine": engine})
    assert [asked.beside_driver for asked in asked_by_rl(one) if asked.name == CRITIC] == [here]


def test_critics_on_gpus_take_what_learners_and_rollout_actors_leave(recipe):
    """Several critics filled a GPU that a rollout actor needed."""
    clip = RewardRecipe(scorers=[{"name": "c", "kind": "clip", "path": "/m/clip"}])
    on_cpu = recipe.model_copy(update={"rewards": clip})
    assert [asked.name for asked in asked_by_rl(on_cpu)] == [CRITIC, LEARNER, ROLLOUT]
    engine = recipe.engine.model_copy(update={"device": "cuda", "critics": 2})
    on_gpu = on_cpu.model_copy(update={"engine": engine})
    assert on_gpu.critic_gpus > 0 and [asked.name for asked in asked_by_rl(on_gpu)] == [LEARNER, ROLLOUT, CRITIC]


def test_held_out_scorers_have_no_weight_in_the_reward(recipe):
    run = Run.create(recipe)
    assert "clip" not in reward_weights(run.recipe) and set(reward_weights(run.recipe)) == {"verifier", "hps", "judge"}

"""One of everything is tried on a tiny model folder, with rows and prompts of its own and a judge over HTTP."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from irg_rl.config import Recipe, load_recipe, parse_recipe
from irg_rl.driver import trial
from irg_rl.driver.trial import Outcome, disk_bytes, try_everything
from irg_rl.model.folder import check_folder, save_folder
from tests.paths import CONFIGS
from tests.rewards.servers import completion, endpoint
from tests.sft.material import improving_full, write

PARTS = ["a row", "a pack", "a rollout", "a score", "an evaluation", "a save"]


@pytest.fixture(scope="module")
def judge():
    """A judge that is fairly sure that every image is right, and refuses to talk about fog."""
    sure = {"yes": math.log(0.8), "no": math.log(0.2)}

    def reply(number, body):
        asked = str(body["messages"])
        if "fog" in asked:
            return 200, completion("I cannot tell"), 0.0
        return 200, completion("yes", sure) if "yes or no" in asked else completion("1"), 0.0

    with endpoint(reply) as (url, _):
        yield url


@pytest.fixture(scope="module")
def place(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    save_folder(world.model, world.vae, world.tokenizer, folder / "model")
    write(folder / "rows" / "mode", [improving_full(number) for number in range(6)])
    write(folder / "broken" / "mode", ["[]", "no JSON"])
    for name, words in (("clear", "a lake"), ("fog", "fog over a lake")):
        for split in ("train", "test"):
            lines = [json.dumps({"prompt": f"{words}, {split} {number}"}) + "\n" for number in range(3)]
            (folder / f"{name}-{split}.jsonl").write_text("".join(lines))
    return folder


def settings(place: Path, judge: str, prompts: str = "clear", **sections) -> dict:
    stage = {"steps": 2, "sources": [{"folder": "mode"}], "tokens_per_pack": 150}
    return {
        "name": "mine", "init_from": str(place / "model"), "output_dir": str(place / "runs"), "task": "prompts",
        "task_options": {split: str(place / f"{prompts}-{split}.jsonl") for split in ("train", "test")}
        | {"verdict": {"scorer": "judge"}},
        "sft": {"data": str(place / "rows"), "stage1": stage, "validation_rows": 1},
        "sampling": {"image_size": [16, 16], "points": 4, "turns": 2}, "engine": {"threads": 1},
        "rl": {"groups": 1, "group_size": 2, "noise": {"window_size": 1, "window_range": [0, 2]}},
        "rewards": {"scorers": [{"name": "judge", "kind": "judge", "base_url": judge, "options": {"retries": 0}}]},
        "evaluation": {"turns": 2, "preference": "judge"},
    } | sections  # fmt: skip


def tried(recipe: Recipe) -> dict[str, tuple[Outcome, str]]:
    return {one.what: (one.outcome, one.told) for one in try_everything(recipe)}


def outcomes(recipe: Recipe) -> list[Outcome]:
    return [one.outcome for one in try_everything(recipe)]


def test_one_of_everything_works_and_leaves_nothing_behind(place, judge):
    before = sorted(place.rglob("*"))
    found = tried(parse_recipe(settings(place, judge)))
    assert list(found) == PARTS
    assert {outcome for outcome, _ in found.values()} == {Outcome.WORKS}, found
    assert "32 of each of 1 sources, 0 broken" in found["a row"][1] and "stage1 ce" in found["a pack"][1]
    assert "2 trajectories, 4 images" in found["a rollout"][1] and "real, redraw, shuffled" in found["an evaluation"][1]
    assert sorted(place.rglob("*")) == before


def test_broken_rows_a_silent_judge_and_a_full_disk_are_found_each_in_its_part(place, judge, monkeypatch):
    broken = settings(place, judge, prompts="fog")
    broken["sft"] = broken["sft"] | {"data": str(place / "broken")}
    monkeypatch.setattr(trial, "disk_bytes", lambda recipe, folder: 10**18)
    found = tried(parse_recipe(broken))
    fails = {what: told for what, (outcome, told) in found.items() if outcome is Outcome.FAILS}
    assert found["a rollout"][0] is Outcome.WORKS and fails.keys() == set(PARTS) - {"a rollout"}
    assert "an epoch has no usable row" in fails["a row"] and "no score by judge" in fails["a score"]
    assert "I cannot tell" in fails["an evaluation"] and "a run writes up to 1000000000.0 GB" in fails["a save"]


def test_weights_that_are_no_numbers_are_found_in_the_first_pack(world, place, judge, tmp_path):
    ruined = world.copy()
    with torch.no_grad():
        ruined.llm2vae.weight.fill_(float("nan"))
    save_folder(ruined, world.vae, world.tokenizer, tmp_path / "ruined")
    found = tried(parse_recipe(settings(place, judge, init_from=str(tmp_path / "ruined"))))
    assert found["a pack"][0] is Outcome.FAILS and "the loss of the first pack is not finite" in found["a pack"][1]


def test_what_a_recipe_does_not_have_is_named_and_not_tried(place, judge):
    found = tried(parse_recipe(settings(place, judge, sft=None, rl=None)))
    reasons = {what: told for what, (outcome, told) in found.items() if outcome is Outcome.NOT_TRIED}
    assert reasons == {
        "a row": "the recipe has no SFT", "a pack": "the recipe has no SFT",
        "a rollout": "the recipe does not sample for training", "a score": "there is no rollout to score",
    }  # fmt: skip


@pytest.mark.parametrize(("sections", "reason"), [
    ({"init_from": "/nowhere", "sft": None}, "init_from: /nowhere is not a folder in the released layout"),
    ({"engine": {"device": "cuda"}}, "engine.device is cuda, but no GPU is visible"),
])  # fmt: skip
def test_where_the_folder_or_the_device_is_not_at_hand_nothing_is_tried(place, judge, sections, reason, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (one,) = try_everything(parse_recipe(settings(place, judge) | sections | {"sampling": {"image_size": [32, 32]}}))
    assert one.outcome is Outcome.NOT_TRIED and reason in one.told and one.what == ", ".join(PARTS)


def test_a_recipe_that_makes_its_model_itself_says_so():
    (one,) = try_everything(load_recipe(CONFIGS / "shapes-smoke.yaml"))
    assert one.outcome is Outcome.NOT_TRIED and "the run makes its model first" in one.told


def test_check_ends_with_an_error_where_something_fails(place, judge, irg_rl, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(settings(place, judge, prompts="fog", sft=None)))
    answer = irg_rl("check", recipe)
    assert answer.code == 1 and "fails here: a score: no score by judge" in answer.out
    assert "works here: a rollout: 2 trajectories" in answer.out and "not tried here: a row" in answer.out
    assert irg_rl("check", recipe, "--no-trial").code == 0


def test_the_disk_holds_a_folder_of_every_stage_and_the_checkpoints_that_are_kept(place, judge):
    folder = check_folder(place / "model")
    model, autoencoder = (sum(p.numel() for p in part.parameters()) for part in (folder.model, folder.autoencoder))
    recipe = parse_recipe(settings(place, judge) | {"engine": {"keep_checkpoints": 3}})
    assert disk_bytes(recipe, folder) == 2 * 4 * (model + autoencoder) + 16 * model * (3 + 3 + 1)
    adapters = settings(place, judge, rl=None) | {"engine": {"keep_checkpoints": 1}}
    adapters["sft"]["stage1"]["lora"] = {"rank": 2}
    assert 4 * (model + autoencoder) < disk_bytes(parse_recipe(adapters), folder) < 8 * (model + autoencoder)

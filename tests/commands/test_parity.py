"""`irg-rl parity`: sampler and learner are one policy, and it is said when they are not."""

import json
from dataclasses import replace

import pytest

from irg_rl.commands import parity
from irg_rl.config import changed_recipe
from irg_rl.shapes_world.prompts import make_prompts


@pytest.fixture
def measured(run, irg_rl):
    answer = irg_rl("parity", run.folder, "--prompts", 3, "--turns", 2)
    assert answer.code == 0, answer.err
    return answer, json.loads((run.folder / "evaluation" / "parity-rl.json").read_text())


def test_every_case_is_measured_and_within_its_limit(measured):
    answer, content = measured
    cases = content["cases"]
    named = {(case["weights"], case["turns"], case["batch"], case["packs"]) for case in cases}
    assert len(named) == len(cases) == 2 * 2 * 2 * 2
    assert all(place["max"] <= place["limit"] for case in cases for place in case["places"])
    assert content["kind"] == "parity" and content["model"].endswith("/rl")
    assert "|log ratio|" in answer.out and "split" in answer.out and "lora" in answer.out


def test_every_turn_and_every_step_is_a_place(measured, run):
    steps = run.recipe.sampling.points - 1
    for case in measured[1]["cases"]:
        images = {(p["turn"], p["step"]) for p in case["places"] if p["modality"] == "image"}
        texts = {p["turn"] for p in case["places"] if p["modality"] == "text"}
        assert images == {(turn, step) for turn in range(case["turns"]) for step in range(steps)}
        assert texts == set(range(case["turns"]))


def test_the_adapters_do_something(measured):
    means = {weights: [] for weights in ("full", "lora")}
    for case in measured[1]["cases"]:
        means[case["weights"]] += [place["mean"] for place in case["places"]]
    assert means["full"] != means["lora"]


def test_another_policy_in_the_learner_is_refused_with_the_worst_place(run, irg_rl, monkeypatch):
    own = parity.sampling_law
    monkeypatch.setattr(parity, "sampling_law", lambda *settings: replace(own(*settings), temperature=1.3))
    answer = irg_rl("parity", run.folder, "--prompts", 2, "--turns", 1, "--out", run.folder / "said.json")
    assert answer.code == 1 and "sampler and learner are different policies" in answer.err
    assert "full weights, 1 turns, batches of 1" in answer.err
    assert (run.folder / "said.json").is_file()


def test_a_recipe_with_forks_is_measured_on_siblings(run):
    recipe = changed_recipe(run.recipe, {"rl.forks": {1: 2}, "rl.group_size": 4}, "tiny")
    prompts = make_prompts(4, "validation", 0)
    requests = parity.parity_requests(recipe, prompts, 0)
    assert [(r.prompt.id, r.sample) for r in requests] == [(p.id, n) for p in prompts[:2] for n in range(2)]
    cases = list(parity.parity_cases(run.path("models", "rl"), recipe, requests, 2, 0))
    assert all(not place.exceeds for case in cases for place in case.table)
    texts = {(c.turns, c.batch): sum(d.count for d in c.table if d.modality == "text" and d.turn == 0) for c in cases}
    assert texts[2, 1] == 2 * texts[2, 16], "what siblings share is one segment in a batch and two one by one"

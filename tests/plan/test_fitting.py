"""`irg-rl plan --gpus`: settings with which a recipe runs on the GPUs that a user has."""

import shlex

import pytest

from irg_rl.commands.plan import fit_lines
from irg_rl.config import load_recipe
from irg_rl.plan.costs import LEARNER, ROLLOUT, Plan
from irg_rl.plan.fitting import Fit, fit, gpus_of, machines_of
from tests.paths import CONFIGS

GIB = 2**30
FEW = ("rl.groups=8", "model.llm.num_hidden_layers=2", "model.vit.num_hidden_layers=2")
"""BAGEL with few layers: what needs memory is in the same proportion, and is counted in less time."""


def loader(name: str):
    return lambda more: load_recipe(CONFIGS / f"{name}.yaml", [*FEW, *more])


def test_ranks_and_actors_count_together_and_stages_one_after_the_other():
    assert gpus_of(load_recipe(CONFIGS / "bagel-lora-grpo.yaml")) == {"rl": 8}
    assert set(gpus_of(load_recipe(CONFIGS / "bagel-irgl.yaml")).values()) == {8}
    shared = ["engine.learner_ranks=1", "engine.rollout_actors=4", "engine.gpu_share=0.33"]
    assert gpus_of(load_recipe(CONFIGS / "bagel-lora-grpo.yaml", shared)) == {"rl": 2}  # three to a GPU
    assert gpus_of(load_recipe(CONFIGS / "shapes-rl.yaml")) == {}
    assert [machines_of(gpus) for gpus in (1, 8, 9, 64)] == [1, 1, 2, 8]


def test_a_recipe_that_fits_is_left_as_it_is():
    found = fit(loader("bagel-lora-grpo"), 8, 80 * GIB)
    assert (found.overrides, found.crowded) == ([], [])


def test_a_recipe_that_is_too_large_gets_only_changes_that_are_needed():
    load = loader("bagel-grpo")
    card = 0.5 * Plan(load(())).place(LEARNER).peak
    found = fit(load, 8, card)
    assert found.overrides and not found.crowded
    assert all(place.peak <= card for place in Plan(load(found.overrides)).places)
    for left_out in found.overrides:
        rest = load([one for one in found.overrides if one != left_out])
        assert any(place.peak > card for place in Plan(rest).places) or max(gpus_of(rest).values()) > 8


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_fewer_gpus_get_fewer_processes_and_the_groups_stay_a_multiple_of_the_ranks(gpus):
    load = loader("bagel-lora-grpo")
    recipe = load(fit(load, gpus, 10_000 * GIB).overrides)
    assert gpus_of(recipe)["rl"] <= gpus and recipe.rl.groups % recipe.engine.learner_ranks == 0


def test_two_processes_on_one_gpu_have_half_of_its_memory_each():
    load = loader("bagel-lora-grpo")
    card = 2.1 * max(Plan(load(["engine.learner_ranks=1"])).place(name).peak for name in (LEARNER, ROLLOUT))
    found = fit(load, 1, card)
    assert "engine.gpu_share=0.5" in found.overrides and not found.crowded


def test_the_command_is_one_to_paste_and_hours_are_added_up(irg_rl):
    recipe = CONFIGS / "bagel-lora-grpo.yaml"
    answer = irg_rl("plan", recipe, *FEW, "--gpus", 4, "--gpu-gib", 80)
    assert answer.code == 0, answer.err
    assert "GPUs: rl 8; the run takes 8 GPUs, 1 machine of 8" in answer.out
    command = shlex.split(answer.out.splitlines()[-1])
    assert command[:6] == ["irg-rl", "train", str(recipe), *FEW]
    changed = load_recipe(command[2], command[3:])
    assert gpus_of(changed)["rl"] <= 4 and all(place.peak <= 80 * GIB for place in Plan(changed).places)
    said = irg_rl("plan", CONFIGS / "shapes-smoke.yaml", "--gpus", 8).out
    assert "runs on the CPU: set engine.device=cuda to plan for 8 GPUs of 80 GiB" in said
    (said,) = fit_lines("a.yaml", [], Fit(["rl.probe_every=0"], Plan(changed), ["rl learner"]), 4, 5.0)
    assert said == "4 GPUs of 5 GiB: no settings were found with which these fit: rl learner; nearest: rl.probe_every=0"

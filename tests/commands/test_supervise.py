"""A stage of a run on a tiny model: what it leaves behind."""

import pytest
import torch

from irg_rl.commands.prepare import save_trained
from irg_rl.commands.supervise import train_stage
from irg_rl.learner import checkpoint
from irg_rl.model.folder import load_folder
from irg_rl.report.tracking import Tracker
from tests.commands.begun import begun_run


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_stage_hands_on_its_averaged_weights_whatever_holds_them(world, tmp_path, zero_stage):
    run = begun_run(world, tmp_path, engine={"threads": 1, "zero_stage": zero_stage})
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        train_stage(run, "sft1", "base", run.recipe.sft.stage1, tracker, {})
    path, _ = checkpoint.latest(run.path("sft1"))
    groups = checkpoint.load(path).tensors
    handed_on = load_folder(run.path("models", "sft1")).model.state_dict()
    before = world.model.state_dict()
    assert {name: tensor.shape for name, tensor in handed_on.items()} == {n: t.shape for n, t in before.items()}
    assert all(torch.equal(handed_on[name], average) for name, average in groups["ema"].items())
    assert any(not torch.equal(handed_on[name], groups["model"][name]) for name in groups["ema"])
    assert any(not torch.equal(handed_on[name], before[name]) for name in groups["ema"])


def test_trained_weights_are_handed_on_in_fp32_also_where_bf16_is_sampled_and_trained(world, tmp_path):
    run = begun_run(world, tmp_path)
    engine = run.recipe.engine.model_copy(update={"dtype": "bf16"})  # the recipe itself refuses it on the CPU
    run.recipe = run.recipe.model_copy(update={"engine": engine})
    weights = {name: parameter + 1e-5 for name, parameter in world.model.named_parameters()}
    save_trained(run, "base", weights, "rl")
    handed_on = load_folder(run.path("models", "rl")).model.state_dict()
    assert all(torch.equal(handed_on[name], weight) for name, weight in weights.items())

"""A stage of a run on a tiny model: what it leaves behind."""

import pytest
import torch

from irg_rl.config import adapters_of
from irg_rl.driver.prepare import save_trained
from irg_rl.driver.sft import train_stage
from irg_rl.learner import checkpoint
from irg_rl.learner.from_recipe import engine_settings
from irg_rl.learner.lora import served
from irg_rl.learner.parts import part_of
from irg_rl.model.folder import load_folder
from irg_rl.report.tracking import Tracker
from tests.driver.begun import STAGE, begun_run


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


LORA = {"rank": 4, "alpha": 8}


def adapted_run(world, folder, zero_stage=2, **optimizer):
    """A run whose stage of SFT trains adapters."""
    stage = STAGE | {"lora": LORA, "optimizer": {"lr": 5e-3} | optimizer}
    sft = {"data": str(folder / "rows"), "stage1": stage, "validation_rows": 1}
    return begun_run(world, folder, sft=sft, engine={"threads": 1, "zero_stage": zero_stage})


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_stage_with_adapters_hands_on_merged_weights_and_the_adapter_that_peft_puts_on_the_base(
    world, tmp_path, zero_stage
):
    from peft import PeftModel

    run = adapted_run(world, tmp_path, zero_stage)
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        train_stage(run, "sft1", "base", run.recipe.sft.stage1, tracker, {})
    folder = run.path("models", "sft1")
    pack = world.replay().packs(world.sample(2))[0].pack
    handed_on, base = load_folder(folder).model, load_folder(run.path("models", "base")).model
    assert list(handed_on.state_dict()) == list(world.model.state_dict())
    changed = {n for n, w in handed_on.state_dict().items() if not torch.equal(w, base.state_dict()[n])}
    assert len(changed) == 2 * 2 * 7 and {part_of(name) for name in changed} == {"und", "gen"}
    path, _ = checkpoint.latest(run.path("sft1"))
    average = served(checkpoint.load(path).tensors["ema"])
    again = PeftModel.from_pretrained(base, folder / "adapter")
    found = {name.removeprefix("base_model.model."): w for name, w in served(again.state_dict()).items()}
    assert found.keys() == average.keys() and all(torch.equal(found[name], average[name]) for name in found)
    mine, theirs = handed_on(pack), again(pack)
    torch.testing.assert_close(theirs.logits, mine.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.velocity, mine.velocity, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mine.logits, world.model(pack).logits, rtol=1e-3, atol=1e-3)


def test_an_expert_with_rate_zero_gets_no_adapters_and_parts_without_adapters_are_frozen(world, tmp_path):
    run = adapted_run(world, tmp_path, gen_lr=0.0)
    stage = run.recipe.sft.stage1
    assert adapters_of(stage).experts == ("und",)
    rates = engine_settings(run.recipe, stage, 2, 2).optimizer.learning_rates
    assert rates == {"und": 5e-3, "gen": 0.0, "vision": 0.0}
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        train_stage(run, "sft1", "base", stage, tracker, {})
    handed_on, before = load_folder(run.path("models", "sft1")).model.state_dict(), world.model.state_dict()
    changed = {name for name in before if not torch.equal(handed_on[name], before[name])}
    assert changed and {part_of(name) for name in changed} == {"und"}


def test_experts_learn_at_rates_of_their_own_with_adapters_and_without(world, tmp_path):
    stage = adapted_run(world, tmp_path, gen_lr=1e-2).recipe.sft.stage1
    plain = stage.model_copy(update={"lora": None})
    recipe = begun_run(world, tmp_path / "other").recipe
    rates = [engine_settings(recipe, trained, 2, 2).optimizer.learning_rates for trained in (stage, plain)]
    assert rates == [{"und": 5e-3, "gen": 1e-2, "vision": 0.0}, {"und": 5e-3, "gen": 1e-2, "vision": 5e-3}]

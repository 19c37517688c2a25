"""A stage of SFT on two learner ranks: the same model as from one, and what a killed one leaves."""

import json

import pytest
import ray
import torch

from irg_rl.driver.run_folder import Run
from irg_rl.driver.sft import train_stage
from irg_rl.learner import checkpoint
from irg_rl.model.folder import load_folder
from irg_rl.report.tracking import METRICS, Tracker
from tests.driver.begun import STAGE, begun_run

pytestmark = pytest.mark.timeout(900)


def two_ranked(world, folder, ranks: int, zero_stage: int) -> Run:
    """A run whose stage has two packs per step."""
    made = STAGE | {"packs_per_step": 2, "steps": 4, "optimizer": {"lr": 5e-3, "eps": 1e-3}}
    sft = {"data": str(folder / "rows"), "stage1": made, "checkpoint_every": 2, "validate_every": 2,
           "validation_rows": 1, "ema_decay": 0.5, "data_workers": ranks - 1}  # fmt: skip
    engine = {"threads": 2, "learner_ranks": ranks, "zero_stage": zero_stage}
    return begun_run(world, folder, sft=sft, engine=engine, rl=None)


def trained(run: Run) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights of the model folder, and the facts of the stage."""
    facts: dict = {}
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        train_stage(run, "sft1", "base", run.recipe.sft.stage1, tracker, facts)
    return load_folder(run.path("models", "sft1")).model.state_dict(), facts


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_ranks_train_the_model_that_one_trains(world, tmp_path, zero_stage):
    (alone, told), (shared, said) = (
        trained(two_ranked(world, tmp_path / str(ranks), ranks, zero_stage)) for ranks in (1, 2)
    )
    before = world.model.state_dict()
    moved = max(float((alone[name] - before[name]).abs().max()) for name in before)
    assert moved > 1e-3
    for name, weight in alone.items():
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=0.05 * moved, msg=name)
    assert said["validation"] == pytest.approx(told["validation"], rel=1e-3)
    assert {k: said[k] for k in ("steps", "rejected_rows")} == {"steps": 4, "rejected_rows": 0}
    assert not ray.is_initialized()


class Killed(Exception):
    pass


def test_a_killed_stage_of_two_ranks_resumes_bit_for_bit(world, tmp_path, monkeypatch):
    whole, _ = trained(two_ranked(world, tmp_path / "whole", 2, 2))
    run = two_ranked(world, tmp_path / "killed", 2, 2)

    def die(self, name: str) -> None:  # called after every checkpoint
        raise Killed

    monkeypatch.setattr(Run, "count_time", die)
    with pytest.raises(Killed):
        trained(run)
    monkeypatch.undo()
    path, _ = checkpoint.latest(run.path("sft1"))
    assert checkpoint.describe(path).step == 2 and not ray.is_initialized()
    assert checkpoint.load(path).extra["world_size"] == 2
    again, facts = trained(run)
    assert facts["steps"] == 4 and all(torch.equal(again[name], whole[name]) for name in whole)
    lines = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "sft1"] == [2, 4]

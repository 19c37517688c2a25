"""A stage of SFT on two learner ranks: the same model as from one, and what a killed one leaves."""

import json

import pytest
import ray
import torch

from irg_rl.commands.run import Run
from irg_rl.commands.supervise import train_stage
from irg_rl.learner import checkpoint
from irg_rl.model.folder import load_folder
from irg_rl.report.tracking import METRICS, Tracker
from tests.commands.begun import STAGE, begun_run

pytestmark = pytest.mark.timeout(900)


def begun(world, folder, ranks: int) -> Run:
    """A run whose stage has two packs per step, under ZeRO 3."""
    stage = STAGE | {"packs_per_step": 2, "steps": 4, "optimizer": {"lr": 5e-3, "eps": 1e-3}}
    sft = {"data": str(folder / "rows"), "stage1": stage, "checkpoint_every": 2, "validate_every": 2,
           "validation_rows": 1, "ema_decay": 0.5}  # fmt: skip
    engine = {"threads": 2, "learner_ranks": ranks, "zero_stage": 3}
    return begun_run(world, folder, sft=sft, engine=engine, rl=None)


def trained(run: Run) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights of the model folder, and the facts of the stage."""
    facts: dict = {}
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        train_stage(run, "sft1", "base", run.recipe.sft.stage1, tracker, facts)
    return load_folder(run.path("models", "sft1")).model.state_dict(), facts


@pytest.fixture(scope="module")
def shared(world, tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict]:
    """What two ranks make of it."""
    return trained(begun(world, tmp_path_factory.mktemp("shared"), 2))


def test_two_ranks_train_the_model_that_one_trains(world, shared, tmp_path):
    weights, facts = shared
    expected, told = trained(begun(world, tmp_path, 1))
    before = world.model.state_dict()
    moved = max(float((expected[name] - before[name]).abs().max()) for name in before)
    assert moved > 1e-3
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0.01 * moved, msg=name)
    assert facts["validation"] == pytest.approx(told["validation"], rel=1e-3)
    assert (facts["steps"], facts["rejected_rows"]) == (told["steps"], told["rejected_rows"]) == (4, 0)
    assert not ray.is_initialized()


class Killed(Exception):
    pass


def test_a_killed_stage_of_two_ranks_resumes_bit_for_bit(world, shared, tmp_path, monkeypatch):
    run = begun(world, tmp_path, 2)

    def die(self, name: str) -> None:  # called after every checkpoint
        raise Killed

    monkeypatch.setattr(Run, "count_time", die)
    with pytest.raises(Killed):
        trained(run)
    monkeypatch.undo()
    path, _ = checkpoint.latest(run.path("sft1"))
    assert checkpoint.describe(path).step == 2 and not ray.is_initialized()
    weights, facts = trained(run)
    assert facts["steps"] == 4 and all(torch.equal(weights[name], weight) for name, weight in shared[0].items())
    lines = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "sft1"] == [2, 4]

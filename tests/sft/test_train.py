"""A stage of training on a tiny model: it learns, it stops, and a killed one goes on bit for bit."""

import json
import math
from pathlib import Path

import pytest
import torch

from irg_rl.config import DataSource, Dropout, LoraRecipe, Stage
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine, EngineSettings
from irg_rl.learner.lora import add_adapters, is_adapter
from irg_rl.learner.parts import OptimizerSettings, Schedule
from irg_rl.learner.replay import idle_pack
from sft.dataset import DataError
from sft.loss import Counts, sft_loss
from sft.train import Identity, Plateau, StageTrainer, own_weights
from tests.sft.material import drawn_broken, improving_full, initial_full, stage, stream, write

SOURCES = DataSource(folder="one", mandatory=True), DataSource(folder="two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven and six rows less one and one held out: epochs end in the middle of six steps."""
    path = tmp_path_factory.mktemp("rows")
    write(path / "one", [initial_full(n) for n in range(7)])
    write(path / "two", [improving_full(n) for n in range(100, 106)])
    return path


class Killed(Exception):
    pass


def trainer(
    world, folder, run, settings: Stage | None = None, zero_stage=2, digest="d", lora=None, **cadence
) -> StageTrainer:
    """A trainer on a fresh copy of the tiny model."""
    settings = settings or stage(*SOURCES, noise_blocks=2, tokens_per_pack=120)
    packs = stream(world, folder, settings, Dropout(), hold_out=1)
    rates = {"und": 5e-3, "gen": 5e-3, "vision": 5e-3}
    optimizer = OptimizerSettings(rates, schedule=Schedule(2, 6, 0.1))
    config, model = world.model.config, world.copy().train()
    if lora is not None:
        add_adapters(model, lora, seed=0)
    engine = Engine(model, EngineSettings(optimizer, zero_stage), idle_pack(config, world.model.special))
    ema = EMA(own_weights(engine), 0.8)
    cadence = {"validate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 2} | cadence
    identity = Identity({"name": "tiny"}, digest, "f")
    return StageTrainer(engine, ema, packs, packs.held_out(1), settings, run, identity, **cadence)


def state(made: StageTrainer) -> dict[str, torch.Tensor]:
    """Everything that training goes on from, by name."""
    full = made.engine.state()
    found = {f"weight {n}": w for n, w in full.weights()} | {f"average {n}": w for n, w in made.ema.weights.items()}
    for key in full.MOMENTS:
        found |= {f"{key} {n}": m for n, m in full.moment(key)}
    return found


def newest(made: StageTrainer) -> Path:
    path, _ = checkpoint.latest(made.folder)
    assert path is not None
    return path


def run_to_the_end(made: StageTrainer) -> list[float]:
    losses = []
    made.on_step = lambda result: losses.append(result.loss)
    made.run()
    return losses


def test_the_loss_falls_on_what_is_trained_and_on_what_is_held_out(world, folder, tmp_path):
    settings = stage(*SOURCES, steps=16, noise_blocks=4, tokens_per_pack=150)
    made = trainer(world, folder, tmp_path, settings, validate_every=16, checkpoint_every=16)
    before = made.validate()
    losses = run_to_the_end(made)
    after = made.validate()
    assert len(losses) == 16 and sum(losses[-2:]) < 0.85 * sum(losses[:2])
    assert after["ce"] < 0.9 * before["ce"] and after["mse"] < before["mse"]
    assert after["loss"] == pytest.approx(after["ce"] + after["mse"])
    assert 0 < after["right_tokens"] <= 1


@pytest.mark.parametrize(("zero_stage", "lora"), [(0, None), (2, None), (2, LoraRecipe(rank=4, alpha=8))])
def test_a_killed_stage_resumes_bit_for_bit(world, folder, tmp_path, zero_stage, lora):
    whole = trainer(world, folder, tmp_path / "whole", zero_stage=zero_stage, lora=lora, checkpoint_every=3)
    losses = run_to_the_end(whole)

    killed = trainer(world, folder, tmp_path / "killed", zero_stage=zero_stage, lora=lora, checkpoint_every=3)

    def die(result):
        if result.step == 5:
            raise Killed

    killed.on_step = die
    with pytest.raises(Killed):
        killed.run()
    torch.manual_seed(999)  # another process
    resumed = trainer(world, folder, tmp_path / "killed", zero_stage=zero_stage, lora=lora, checkpoint_every=3)
    assert resumed.resume(newest(resumed)) == 3
    assert run_to_the_end(resumed) == losses[3:]
    assert resumed.plateau == whole.plateau
    assert json.dumps(resumed.stream.state()) == json.dumps(whole.stream.state())
    other = state(resumed)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, other[name]), name
    assert lora is None or all(is_adapter(name) for name in whole.ema.weights)


def test_a_stage_killed_between_its_last_checkpoint_and_its_end_trains_no_further(world, folder, tmp_path):
    made = trainer(world, folder, tmp_path)
    run_to_the_end(made)
    again = trainer(world, folder, tmp_path)
    assert again.resume(newest(again)) == 6
    assert run_to_the_end(again) == [] and again.engine.steps == 6
    assert again.run() == pytest.approx(made.validate())


def test_a_stage_ends_at_its_plateau_and_stays_ended(world, folder, tmp_path):
    settings = stage(*SOURCES, steps=50, patience=2, ce_weight=0.0, mse_weight=0.0)  # nothing can get better
    made = trainer(world, folder, tmp_path, settings, validate_every=1, checkpoint_every=50)
    assert len(run_to_the_end(made)) == 2 + 1
    again = trainer(world, folder, tmp_path, settings, validate_every=1, checkpoint_every=50)
    assert again.resume(newest(again)) == 3 and run_to_the_end(again) == []


def test_a_plateau_counts_validations_since_the_best_by_its_margin():
    plateau = Plateau(patience=2, margin=0.1)
    reached = []
    for loss in (1.0, 0.95, 0.85, 0.80, 0.80):  # 0.95 and 0.80 are no better than the best by a tenth
        plateau.add(loss)
        reached.append(plateau.reached)
    assert reached == [False, False, False, False, True] and plateau.best == 0.85


def test_a_loss_that_is_not_a_number_is_never_the_best():
    plateau = Plateau(patience=1)
    plateau.add(math.nan)
    assert plateau.reached and plateau.best == math.inf


def test_a_step_that_was_not_finite_is_neither_validated_nor_saved_nor_averaged(world, folder, tmp_path):
    made = trainer(world, folder, tmp_path, validate_every=1, checkpoint_every=1)
    validated, applied = [], []
    made.on_validation = lambda step, metrics: validated.append(step)
    made.on_step = lambda result: applied.append(result.applied)
    draw, poisoned = made.stream.next, iter([False, True, False, False, False, False, False])

    def next_pack():
        pack = draw()
        if next(poisoned):
            pack.velocities.fill_(math.nan)
        return pack

    made.stream.next = next_pack
    made.run()
    assert applied == [True, False, True, True, True, True, True]
    assert validated == [1, 2, 3, 4, 5, 6] and made.ema.updates == 6 and made.engine.skipped == 1


def test_steps_whose_images_are_all_damaged_are_passed_over(world, tmp_path):
    """Fails where an optimizer step without a pack is made, or where the stage ends at the first of them."""
    write(tmp_path / "one", [initial_full(0), drawn_broken(1), initial_full(2), drawn_broken(3)])
    settings = stage(DataSource(folder="one"), steps=3, tokens_per_pack=20)
    made = trainer(world, tmp_path, tmp_path / "run", settings)
    made.run()
    assert made.engine.steps == 3 < made.stream.number


def test_a_stage_without_an_image_that_can_be_decoded_ends_with_an_error(world, tmp_path):
    write(tmp_path / "one", [initial_full(0), drawn_broken(1), drawn_broken(2)])
    settings = stage(DataSource(folder="one"), steps=3, tokens_per_pack=20)
    with pytest.raises(DataError, match="the images of 100 training steps in a row are all damaged"):
        trainer(world, tmp_path, tmp_path / "run", settings).run()


def test_another_recipe_or_other_data_are_refused(world, folder, tmp_path):
    run_to_the_end(trainer(world, folder, tmp_path))
    with pytest.raises(CheckpointError, match="is not the one of the checkpoint"):
        changed = trainer(world, folder, tmp_path, digest="e")
        changed.resume(newest(changed))
    changed = trainer(world, folder, tmp_path)
    changed.identity.fingerprint = "g"
    with pytest.raises(CheckpointError, match="the data changed"):
        changed.resume(newest(changed))


def test_checkpoints_come_at_their_cadence_and_older_ones_go(world, folder, tmp_path):
    run_to_the_end(trainer(world, folder, tmp_path, checkpoint_every=2))
    names = sorted(path.name for path in (tmp_path / checkpoint.FOLDER).iterdir())
    assert names == ["step_000004", "step_000006"]


def test_the_packs_of_a_step_share_one_denominator(world, folder, tmp_path):
    double = stage(*SOURCES, packs_per_step=2, tokens_per_pack=100)
    twin = stream(world, folder, double, Dropout(), hold_out=1)
    packs = [twin.next(), twin.next()]
    terms = [sft_loss(world.model(p.pack), p, Counts.of(packs), double.ce_weight, double.mse_weight) for p in packs]
    results = []
    made = trainer(world, folder, tmp_path, double)
    made.on_step = results.append
    made.run()
    assert results[0].loss == pytest.approx(sum(part.item() for term in terms for part in term.values()), rel=1e-4)
    assert results[0].sums["tokens"] == sum(pack.pack.logit_targets.numel() for pack in packs)
    assert made.stream.number == 6 * 2

"""The plan of the training state against the bytes that DeepSpeed and torch hold."""

import pytest
import torch

from irg_rl.learner.engine import Engine, EngineSettings, Loss
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.learner.replay import idle_pack
from irg_rl.model.footprint import LiveBytes
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel
from irg_rl.plan.training_memory import (
    Component,
    Moment,
    Parameters,
    logit_bytes,
    peak,
    probe_bytes,
    training_state,
)
from tests.learner.world import CONFIG

RATES = {"und": 1e-3, "gen": 1e-3, "vision": 0.0}


def settings(stage: int, muon_rate: float | None = None, precision: str = "fp32") -> EngineSettings:
    return EngineSettings(OptimizerSettings(RATES, muon_rate), zero_stage=stage, precision=precision)


def planned(chosen: EngineSettings, ranks: int = 1) -> dict[str, int]:
    with torch.device("meta"):
        model = UnifiedModel(CONFIG, SpecialIds(0, 1, 2, 3))
    found = training_state(Parameters.of(model, chosen), chosen, ranks)
    assert len({c.name for c in found}) == len(found)
    return {c.name: c.bytes for c in found}


def size(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def stepped(world, chosen: EngineSettings) -> tuple[Engine, int]:
    """An engine after one step, and the bytes of gradients right before their reduction."""
    model, pack = world.copy(), idle_pack(CONFIG, world.model.special)
    engine, held = Engine(model.train(), chosen, pack), []

    def loss(output, index, totals) -> Loss:
        return Loss({"all": output.logits.square().sum() + output.velocity.sum()})

    class Second:  # the second pack's forward sees what the first pack's backward left
        def to(self, device):
            held.append(size(p.grad for p in model.parameters() if p.grad is not None))
            return pack

    assert engine.step([pack, Second()], loss, {}).applied
    return engine, held[0]


@pytest.mark.parametrize("muon_rate", [None, 0.01])
def test_stage_0_holds_weights_gradients_and_the_moments_of_its_optimizer(world, muon_rate):
    plan = planned(settings(0, muon_rate))
    engine, gradients = stepped(world, settings(0, muon_rate))
    states = engine._engine.optimizer.state.values()
    assert plan["weights"] == size(engine.model.state_dict().values())
    assert plan["gradients"] == gradients
    assert plan["optimizer moments"] == size(t for state in states for key, t in state.items() if key != "step")
    assert "fp32 masters" not in plan


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_other_stages_keep_masters_and_whole_gradients_until_the_reduction(world, stage):
    plan = planned(settings(stage))
    engine, gradients = stepped(world, settings(stage))
    held = engine._engine.optimizer
    if stage == 3:
        masters = held.fp32_partitioned_groups_flat
        weights = size(p.ds_tensor for p in engine.model.parameters()) + size(engine.model.buffers())
        assert plan["reduced gradients"] == pytest.approx(size([held.grad_partitions_flat_buffer]), rel=0.02)
    else:
        masters = held.single_partition_of_fp32_groups
        weights = size(engine.model.state_dict().values())
    moments = [t for state in held.optimizer.state.values() for key, t in state.items() if key != "step"]
    assert plan["weights"] == pytest.approx(weights, rel=0.02)  # flat groups are padded
    assert plan["fp32 masters"] == pytest.approx(size(masters), rel=0.02)
    assert plan["optimizer moments"] == pytest.approx(size(moments), rel=0.02)
    assert plan["gradients"] == gradients


def test_each_stage_divides_over_the_ranks_what_it_should():
    divided = {
        1: {"fp32 masters", "reduced gradients", "optimizer moments", "optimizer step"},
        2: {"fp32 masters", "reduced gradients", "optimizer moments", "optimizer step"},
        3: {"fp32 masters", "reduced gradients", "optimizer moments", "optimizer step", "weights"},
    }
    assert planned(settings(0), ranks=4) == planned(settings(0))
    tables = 4 * sum(side**2 * CONFIG.llm.hidden_size for side in (4, 4))
    for stage, names in divided.items():
        one, four = planned(settings(stage)), planned(settings(stage), ranks=4)
        assert {name for name in one if four[name] != one[name]} == names
        for name in names:
            whole = tables if name == "weights" else 0
            assert 4 * (four[name] - whole) == pytest.approx(one[name] - whole, rel=1e-3)


@pytest.mark.parametrize("packs", [1, 3])
def test_measuring_each_loss_term_holds_a_gradient_of_each_and_one_more(world, packs):
    chosen, pack = settings(2), idle_pack(CONFIG, world.model.special)
    model = world.copy().train()
    engine, counted = Engine(model, chosen, pack), Parameters.of(model, chosen)

    def loss(output, index, totals) -> Loss:
        return Loss({"text": output.logits.square().sum(), "image": output.velocity.square().sum()})

    with LiveBytes(engine.model.state_dict().values()) as live:
        engine.term_gradients([pack] * packs, loss, {})
    one = planned(chosen)["gradients"]
    assert probe_bytes(counted, chosen) == 2 * one
    assert live.peak == pytest.approx(probe_bytes(counted, chosen) + one, rel=0.15)


def test_bf16_halves_weights_and_gradients_and_nothing_in_fp32():
    full, half = planned(settings(2)), planned(settings(2, precision="bf16"))
    tables = 4 * sum(side**2 * CONFIG.llm.hidden_size for side in (4, 4))
    halved = {"gradients", "reduction bucket"}
    assert 2 * (half["weights"] - tables) == full["weights"] - tables
    assert all(full[name] == (2 if name in halved else 1) * half[name] for name in full if name != "weights")


def test_frozen_parts_have_weights_and_nothing_else():
    with torch.device("meta"):
        model = UnifiedModel(CONFIG, SpecialIds(0, 1, 2, 3))
    counted = Parameters.of(model, settings(0))
    assert counted.trained["vision"] == 0 < counted.parts["vision"]
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert (
        planned(settings(0))["gradients"] == 4 * counted.trained_total == 4 * (counted.total - counted.parts["vision"])
    )


def test_the_peak_is_in_the_backward_or_in_the_step_not_in_both():
    parts = [Component("a", 5), Component("b", 3, Moment.BACKWARD), Component("c", 4, Moment.STEP)]
    assert peak(parts) == 9
    assert peak([*parts, Component("d", 2, Moment.BACKWARD)]) == 10


def test_logits_are_held_in_their_type_in_fp32_and_as_a_gradient():
    assert logit_bytes(10, 100, "bf16") == 1000 * (2 + 4 + 4)
    assert logit_bytes(10, 100, "fp32") == 1000 * 12

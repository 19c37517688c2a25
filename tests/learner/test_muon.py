"""Muon for the matrices of layers, AdamW for the rest, in one optimizer."""

import pytest
import torch
from torch import nn

from irg_rl.learner.engine import Engine, EngineSettings
from irg_rl.learner.muon import MOMENTUM
from irg_rl.learner.parts import OptimizerSettings, Schedule, make_optimizer
from irg_rl.learner.training_state import capture, restore
from tests.learner.toy import IDLE, denominators, loss_of, make_packs

RATES = {"und": 0.01, "gen": 0.01, "vision": 0.01}


class Layered(nn.Module):
    """A matrix and a bias inside a layer, a matrix outside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 6)])})
        self.lm_head = nn.Linear(6, 2, bias=False)

    def forward(self, pack):
        return self.lm_head(torch.tanh(self.model["layers"][0](pack.x)))


def settings(stage=0) -> EngineSettings:
    return EngineSettings(OptimizerSettings(RATES, muon_rate=0.1, weight_decay=0.02), zero_stage=stage, grad_clip=1e9)


def train(engine, seeds):
    for seed in seeds:
        packs = make_packs(3, seed)
        assert engine.step(packs, loss_of(packs), denominators(packs)).applied


def test_each_parameter_moves_as_its_own_torch_optimizer_moves_it():
    engine, twin = Engine(Layered(), settings(), IDLE), Layered()
    inner, bias = twin.model["layers"][0].weight, twin.model["layers"][0].bias
    optimizers = [
        torch.optim.Muon([inner], lr=0.1, momentum=MOMENTUM, weight_decay=0.02),
        torch.optim.AdamW([twin.lm_head.weight], lr=0.01, betas=(0.9, 0.95), weight_decay=0.02),
        torch.optim.AdamW([bias], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for seed in (1, 2, 3):
        packs = make_packs(3, seed)
        twin.zero_grad()
        sum(loss_of(packs)(twin(p), i, denominators(packs)).total() for i, p in enumerate(packs)).backward()
        for optimizer in optimizers:
            optimizer.step()
    train(engine, (1, 2, 3))
    for (name, ours), theirs in zip(engine.state().weights(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_a_resumed_engine_goes_on_bit_for_bit():
    whole, first = (Engine(Layered(), settings(), IDLE) for _ in range(2))
    train(whole, (1, 2, 3, 4))
    train(first, (1, 2))
    groups, words = capture(first)
    assert set(groups["momentum_buffer"]) == {"model.layers.0.weight"}
    assert set(groups["exp_avg"]) == {"model.layers.0.bias", "lm_head.weight"}
    second = Engine(Layered(), settings(), IDLE)
    restore(second, groups, words)
    train(second, (3, 4))
    for (name, a), (_, b) in zip(whole.state().weights(), second.state().weights(), strict=True):
        assert torch.equal(a, b), name


def test_groups_keep_their_own_rates():
    optimizer = make_optimizer(Layered(), OptimizerSettings({"und": 0.01}, muon_rate=0.1))
    assert sorted((g["base_lr"], g["muon"]) for g in optimizer.param_groups) == [(0.01, False)] * 2 + [(0.1, True)]


def test_muon_is_refused_where_matrices_are_cut_up():
    with pytest.raises(ValueError, match="zero_stage 0"):
        settings(stage=2)


def test_muon_follows_warm_up_and_schedule_too():
    """Fails where Muon's matrices keep their full rate: a first step of ten in warm-up moves them a tenth."""
    moved = []
    for schedule in (Schedule(), Schedule(warmup_steps=10)):
        chosen = OptimizerSettings(RATES, muon_rate=0.1, schedule=schedule)
        engine, before = Engine(Layered(), EngineSettings(chosen, zero_stage=0, grad_clip=1e9), IDLE), Layered()
        train(engine, [1])
        after = dict(engine.state().weights())["model.layers.0.weight"]
        moved.append((after - before.model["layers"][0].weight).norm().item())
    assert moved[1] == pytest.approx(moved[0] / 10, rel=1e-3)

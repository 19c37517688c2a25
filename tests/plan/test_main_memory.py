"""The copies of weights in main memory, against the real copies."""

import pytest
import torch

from irg_rl.algorithms.awm import AWM
from irg_rl.algorithms.dpo import DPO
from irg_rl.algorithms.grpo import GRPO
from irg_rl.algorithms.nft import NFT
from irg_rl.config import LoraRecipe
from irg_rl.learner import training_state
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine, EngineSettings
from irg_rl.learner.lora import add_adapters
from irg_rl.learner.old_weights import OldPolicySchedule, OldWeights
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.learner.replay import idle_pack
from irg_rl.plan.main_memory import Copy, changing_bytes, in_process, machine_peak, rl_copies, sft_copies
from irg_rl.plan.training_memory import Component, Moment, Parameters
from sft.train import own_weights
from tests.learner.world import CONFIG

RATES = {"und": 1e-3, "gen": 1e-3, "vision": 0.0}
SETTINGS = EngineSettings(OptimizerSettings(RATES, None), zero_stage=2)


def size(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def trained(world, lora: LoraRecipe | None = None) -> tuple[Engine, Parameters]:
    model = world.copy()
    if lora is not None:
        add_adapters(model, lora, seed=0)
    counted = Parameters.of(model, SETTINGS)
    return Engine(model.train(), SETTINGS, idle_pack(CONFIG, world.model.special)), counted


def named(copies: list[Copy]) -> dict[str, Copy]:
    assert len({copy.name for copy in copies}) == len(copies)
    return {copy.name: copy for copy in copies}


@pytest.mark.parametrize("lora", [None, LoraRecipe(rank=4, alpha=8)])
def test_the_copies_are_as_large_as_the_real_ones(world, lora):
    engine, counted = trained(world, lora)
    average, old = EMA(engine.state().own(), 0.9), OldWeights(engine.state().own(), OldPolicySchedule())
    assert size(average.weights.values()) == size(old.weights.values()) == changing_bytes(counted)
    of_sft = EMA(own_weights(engine), 0.9)
    assert saved(engine, of_sft) == named(sft_copies(counted, 4))["checkpoint"].bytes
    assert saved(engine) == named(rl_copies(counted, GRPO(), False, 1000, 1))["checkpoint"].bytes
    assert saved(engine, average, old) == named(rl_copies(counted, NFT(), True, 1000, 1))["checkpoint"].bytes


def saved(*parts) -> int:
    tensors, _ = training_state.capture(*parts)
    return sum(size(group.values()) for name, group in tensors.items() if name != training_state.RNG)


def test_adapters_make_every_copy_small(world):
    _, whole = trained(world)
    _, adapted = trained(world, LoraRecipe(rank=4, alpha=8))
    assert changing_bytes(adapted) == 4 * (adapted.trained_total + adapted.tables) < changing_bytes(whole) / 3


@pytest.mark.parametrize(("algorithm", "kept"), [
    (GRPO(), []), (NFT(), ["old policy"]), (AWM(), ["old policy"]), (DPO(), ["first weights"]),
])  # fmt: skip
def test_average_old_and_first_weights_are_divided_over_the_ranks(world, algorithm, kept):
    _, counted = trained(world)
    copies = named(rl_copies(counted, algorithm, averaged=True, published=1000, ranks=4))
    always = {name: (copy.bytes, copy.ranks) for name, copy in copies.items() if copy.moment is Moment.ALWAYS}
    share = -(-changing_bytes(counted) // 4)
    assert always == dict.fromkeys(["average", *kept], (share, 4))
    assert copies["published weights"] == Copy("published weights", 1000, 1, Moment.PUBLISH)
    assert "average" not in named(rl_copies(counted, algorithm, averaged=False, published=1000, ranks=4))


def test_the_peak_of_the_machine_is_what_is_always_there_and_the_larger_of_publication_and_checkpoint():
    copies = [
        Copy("average", 10, ranks=4), Copy("old policy", 20), Copy("published weights", 12, 4, Moment.PUBLISH),
        Copy("checkpoint", 30, moment=Moment.SAVE),
    ]  # fmt: skip
    assert machine_peak(copies) == 40 + 20 + 48
    assert machine_peak(copies[:1] + copies[3:]) == 40 + 30
    assert in_process(copies) == [Component("average", 10), Component("old policy", 20)]


def test_a_publication_without_adapters_has_the_frozen_weights_too(world):
    engine, counted = trained(world)
    everything = size(tensor for _, tensor in engine.state().weights())
    assert everything == 4 * (counted.total + counted.tables) > changing_bytes(counted)
    assert all(tensor.dtype == torch.float32 for _, tensor in engine.state().weights())

"""The copies of weights in main memory, against the real copies."""

import pytest
import torch

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
from irg_rl.plan.main_memory import Copy, changing_bytes, machine_peak, rl_copies, sft_copies
from irg_rl.plan.training_memory import Moment, Parameters
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
    assert saved(engine, of_sft) == named(sft_copies(counted))["checkpoint"].bytes
    assert saved(engine) == named(rl_copies(counted, GRPO(), False, 1000))["checkpoint"].bytes
    assert saved(engine, average, old) == named(rl_copies(counted, NFT(), True, 1000))["checkpoint"].bytes


def saved(*parts) -> int:
    tensors, _ = training_state.capture(*parts)
    return sum(size(group.values()) for name, group in tensors.items() if name != training_state.RNG)


def test_adapters_make_every_copy_small(world):
    _, whole = trained(world)
    _, adapted = trained(world, LoraRecipe(rank=4, alpha=8))
    assert changing_bytes(adapted) == 4 * (adapted.trained_total + adapted.tables) < changing_bytes(whole) / 3


def test_the_peak_of_the_machine_is_the_larger_of_publication_and_checkpoint():
    published, saving = Copy("published weights", 12, Moment.PUBLISH), Copy("checkpoint", 30, Moment.SAVE)
    assert machine_peak([published, saving]) == 30
    assert machine_peak([published, Copy("more", 20, Moment.PUBLISH), saving]) == 32


def test_a_publication_without_adapters_has_the_frozen_weights_too(world):
    engine, counted = trained(world)
    everything = size(tensor for _, tensor in engine.state().weights())
    assert everything == 4 * (counted.total + counted.tables) > changing_bytes(counted)
    assert all(tensor.dtype == torch.float32 for _, tensor in engine.state().weights())

"""Sizes that are computed without a model, against those of a real one."""

from irg_rl.config import LoraRecipe
from irg_rl.learner import training_state
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine
from irg_rl.learner.lora import add_adapters, is_adapter
from irg_rl.learner.publish import publish
from irg_rl.learner.replay import idle_pack
from irg_rl.learner.sizes import published_bytes, saved_bytes
from tests.learner.toy import settings
from tests.learner.world import CONFIG

LORA = LoraRecipe(rank=4, alpha=8)


def bytes_of(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_all_weights_are_published_or_the_adapters_alone(world):
    sent = publish(world.model.state_dict().items(), version=0).arrays
    assert published_bytes(CONFIG, None) == bytes_of(sent.values())
    adapted = world.copy()
    add_adapters(adapted, LORA, seed=0)
    adapters = [tensor for name, tensor in adapted.state_dict().items() if is_adapter(name)]
    assert published_bytes(CONFIG, LORA) == bytes_of(adapters)


def test_a_checkpoint_with_an_average_and_an_old_policy_is_not_larger_than_planned(world):
    engine = Engine(world.copy().train(), settings(2), idle_pack(CONFIG, world.model.special))
    average = EMA(engine.state().own(), 0.9)
    groups, _ = training_state.capture(engine, average, None)
    saved = sum(bytes_of(group.values()) for name, group in groups.items() if name != training_state.RNG)
    with_old = saved + bytes_of(groups["ema"].values())
    assert 0.9 * saved_bytes(CONFIG, None) < with_old <= saved_bytes(CONFIG, None)

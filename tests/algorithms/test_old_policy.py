"""Activation checkpointing: the same update from less memory."""

import pytest
import torch

from irg_rl.learner.engine import Engine, EngineSettings, Loss
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.model.footprint import LiveBytes, SavedBytes
from irg_rl.model.layout import Kind
from irg_rl.model.pack import Pack, PackBuilder
from irg_rl.model.unified import UnifiedModel
from tests.learner.world import CONFIG, TinyWorld

RATES = {"und": 0.01, "gen": 0.01, "vision": 0.01}


def pack(model: UnifiedModel) -> Pack:
    """Rows of think, noise block, image looked at, reflection."""
    torch.manual_seed(0)
    builder = PackBuilder(model.special, CONFIG.max_latent_size, CONFIG.vit.max_patches_per_side)
    tokens = {Kind.NOISE: torch.randn(4, CONFIG.latent_dim), Kind.VIT: torch.randn(4, CONFIG.vit.patch_dim)}
    for _ in range(4):
        builder.new_row()
        think = builder.add_text([5, 9, 12] * 5, loss=True)
        builder.add_noise(tokens[Kind.NOISE], 0.5, (2, 2), think)
        clean = builder.add_clean(tokens[Kind.NOISE], (2, 2), think)
        seen = builder.add_vit(tokens[Kind.VIT], (2, 2), clean)
        builder.add_text([7, 3] * 5, seen, loss=True)
    return builder.build(touch_all=True)


def loss_of(output, index: int, totals: dict) -> Loss:
    return Loss({"text": output.logits.logsumexp(-1).mean(), "image": output.velocity.square().mean()})


def updated(world: TinyWorld, stage: int, recompute: bool) -> dict[str, torch.Tensor]:
    model = world.copy().train()
    settings = EngineSettings(OptimizerSettings(RATES), zero_stage=stage, activation_checkpointing=recompute)
    engine = Engine(model, settings, pack(model))
    for _ in range(2):
        assert engine.step([pack(model), pack(model)], loss_of, {}).applied
    return dict(engine.state().weights())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_updates_are_the_same_to_the_bit_on_every_zero_stage(world, stage):
    kept, recomputed = (updated(world, stage, recompute) for recompute in (False, True))
    assert all(torch.equal(kept[name], weight) for name, weight in recomputed.items())


def test_the_forward_keeps_little_and_the_gradients_are_those_of_the_plain_one(world):
    saved, gradients = [], []
    for recompute in (False, True):
        model = world.copy().train()
        model.recompute_activations(recompute)
        given = pack(model)
        with LiveBytes(model.state_dict().values()) as live, SavedBytes(model.state_dict().values()):
            output = model(given)
        saved.append(live.now)
        loss_of(output, 0, {}).total().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert saved[1] < 0.4 * saved[0]
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


def test_without_gradients_nothing_is_run_twice(world):
    model = world.copy()
    model.recompute_activations()
    runs = []
    model.language_model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        model(pack(model))
    assert len(runs) == 1

"""Initial weights."""

import torch

from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, tiny_config


def test_a_seed_fixes_every_weight():
    first, again, other = (initialize(UnifiedModel(tiny_config(), SPECIAL), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vae2llm.weight"], other["vae2llm.weight"])


def test_a_new_model_predicts_no_motion_and_nearly_uniform_tokens():
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0)
    builder = model.pack_builder()
    text = builder.add_text([1, 2, 3], loss=True)
    builder.add_noise(torch.randn(4, 16), 0.5, (2, 2), text)
    out = model(builder.build())
    assert not out.velocity.any()
    assert out.logits.std() < 0.3

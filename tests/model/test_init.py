"""Initial weights."""

import torch

from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, tiny_config


def test_a_seed_fixes_every_weight():
    first, again, other = (
        initialize(UnifiedModel(tiny_config(), SPECIAL), seed, (2, 2), (2, 2)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vae2llm.weight"], other["vae2llm.weight"])


def test_a_new_model_predicts_no_motion_and_nearly_uniform_tokens():
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    builder = model.pack_builder()
    text = builder.add_text([1, 2, 3], loss=True)
    builder.add_noise(torch.randn(4, 16), 0.5, (2, 2), text)
    out = model(builder.build())
    assert not out.velocity.any()
    assert out.logits.std() < 0.3


def test_places_stand_out_from_content_at_the_start():
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    ids = torch.tensor([0, 1, model.latent_pos_embed.side, model.latent_pos_embed.side + 1])
    places = model.latent_pos_embed(ids) + model.vae2llm.bias
    content = model.vae2llm(torch.randn(256, model.config.latent_dim)) - model.vae2llm.bias
    assert places.mean(0).abs().max() < 1e-5
    assert places.square().sum(1).mean() > 0.1 * content.square().sum(1).mean()  # 0.016 with unit content


def test_tokens_attend_to_tokens_like_themselves_at_the_start():
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    heads = (-1, model.config.llm.head_dim)
    for layer in model.language_model.model.layers:
        attention = layer.self_attn
        x = torch.randn(16, model.config.llm.hidden_size)
        q, k = (proj(x).unflatten(-1, heads) for proj in (attention.q_proj_moe_gen, attention.k_proj))
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        torch.testing.assert_close(q, k)

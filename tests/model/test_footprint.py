"""Bytes counted without memory are those of real tensors."""

import pytest
import torch

from irg_rl.learner.parts import ModelPart, part_of
from irg_rl.model.attention import Backend
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.footprint import LiveBytes, SavedBytes, drawing_footprint, training_footprint, velocity_footprint
from irg_rl.model.layout import Kind
from irg_rl.model.pack import Pack, PackBuilder
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, tiny_config

CONFIG = tiny_config()


def meta_model(**llm) -> UnifiedModel:
    with torch.device("meta"):
        return UnifiedModel(tiny_config(**llm), SPECIAL)


def pack(rows: int = 3) -> Pack:
    """Rows of think, noise block, image looked at, reflection."""
    builder = PackBuilder(SPECIAL, CONFIG.max_latent_size, CONFIG.vit.max_patches_per_side)
    tokens = {Kind.NOISE: torch.zeros(4, CONFIG.latent_dim), Kind.VIT: torch.zeros(4, CONFIG.vit.patch_dim)}
    for row in range(rows):
        builder.new_row()
        think = builder.add_text([5] * 20, loss=True)
        builder.add_noise(tokens[Kind.NOISE], 0.5, (2, 2), think)
        clean = builder.add_clean(tokens[Kind.NOISE], (2, 2), think)
        seen = builder.add_vit(tokens[Kind.VIT], (2, 2), clean)
        builder.add_text([5] * (10 + row), seen, loss=True)
    return builder.build(touch_all=True)


def really_saved(model: UnifiedModel, given: Pack, context_grad: str = "full") -> int:
    saved = SavedBytes(model.state_dict().values())
    with saved:
        output = model(given, context_grad=context_grad)
    assert output.logits.requires_grad
    return saved.total


@pytest.mark.parametrize("context_grad", ["full", "detached"])
def test_what_a_forward_keeps_is_what_autograd_saves(context_grad):
    counted = training_footprint(meta_model(), pack(), "cpu", torch.float32, context_grad)
    real = really_saved(UnifiedModel(CONFIG, SPECIAL), pack(), context_grad)
    assert counted.kept == pytest.approx(real, rel=0.01)  # CPU attention pads nothing for itself; others might
    assert counted.working > 0


def test_a_frozen_expert_keeps_less_in_the_count_as_in_earnest():
    whole, frozen, real = meta_model(), meta_model(), UnifiedModel(CONFIG, SPECIAL)
    for model in (frozen, real):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) is not ModelPart.VISION)
    counted = training_footprint(frozen, pack(), "cpu", torch.float32).kept
    assert counted < training_footprint(whole, pack(), "cpu", torch.float32).kept
    assert counted == pytest.approx(really_saved(real, pack()), rel=0.01)


def test_recomputed_activations_are_counted_as_the_forward_leaves_them():
    counted, real, given = meta_model(), UnifiedModel(CONFIG, SPECIAL), pack()
    plain = training_footprint(counted, given, "cpu", torch.float32)
    counted.recompute_activations()
    real.recompute_activations()
    found = training_footprint(counted, given, "cpu", torch.float32)
    with LiveBytes(real.state_dict().values()) as live:
        output = real(given)
    own = output.logits.nbytes + output.velocity.nbytes
    assert found.kept == pytest.approx(live.now - own, rel=0.02)
    assert found.kept < 0.5 * plain.kept
    assert plain.working < found.working < plain.kept
    assert counted.language_model.model.recompute


def test_bf16_on_a_gpu_is_counted_where_there_is_none_and_grows_with_rows_and_layers():
    def kept(rows: int, layers: int) -> int:
        return training_footprint(meta_model(num_hidden_layers=layers), pack(rows), "cuda", torch.bfloat16).kept

    assert kept(6, 2) == pytest.approx(2 * kept(3, 2), rel=0.1)
    assert kept(3, 5) - kept(3, 4) == kept(3, 4) - kept(3, 3) > 0


def test_flex_attention_is_counted_like_a_fused_kernel_without_a_mask():
    """One row in one batch, as many key/value heads as query heads: the dense mask is all that differs."""
    model = meta_model(num_key_value_heads=4)
    kept = {}
    for backend in (Backend.SDPA, Backend.FLEX):
        model.attention = backend
        kept[backend] = training_footprint(model, pack(1), "cpu", torch.float32).kept
    assert kept[Backend.SDPA] - kept[Backend.FLEX] == pack(1).lengths[0] ** 2 * 4


def test_on_a_gpu_flex_attention_is_what_is_counted_where_heads_are_large_enough():
    model = meta_model(hidden_size=64)
    found = {}
    for backend in (Backend.AUTO, Backend.FLEX, Backend.SDPA):
        model.attention = backend
        found[backend] = training_footprint(model, pack(), "cuda", torch.bfloat16)
    assert found[Backend.AUTO] == found[Backend.FLEX] and found[Backend.FLEX].kept < found[Backend.SDPA].kept


def test_a_denoising_step_holds_copies_of_keys_and_values_and_no_weights():
    wide = meta_model(hidden_size=64, num_attention_heads=8, num_key_value_heads=2)
    short, long = (velocity_footprint(wide, 3, (2, 2), context, "cpu") for context in (100, 1100))
    one_copy = 3 * 1000 * 2 * (2 * 8) * 4  # rows, tokens, keys and values, numbers of both heads, fp32
    assert one_copy <= long - short < 3 * one_copy
    assert short < sum(p.nbytes for p in wide.parameters())
    repeated = velocity_footprint(wide, 3, (2, 2), 1100, "cuda")
    assert repeated - long >= 3 * one_copy  # eight query heads share two


def test_drawing_grows_with_the_images_and_holds_the_largest_feature_maps():
    with torch.device("meta"):
        vae = Autoencoder(CONFIG.vae, CONFIG.latent_patch_size)
    one, four = (drawing_footprint(vae, images, (32, 48), "cpu") for images in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.02)
    assert one >= 2 * CONFIG.vae.block_out_channels[0] * 32 * 48 * 4

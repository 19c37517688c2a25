"""Packs and the packed forward: bookkeeping, independence of rows, gradients."""

import copy

import pytest
import torch

from irg_rl.model.attention import Backend, ContextGrad, block_mask, flex_attention, grouped_attention
from irg_rl.model.layout import Kind, Layout, Visibility
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close

GRID = (2, 2)
LATENT_DIM, PATCH_DIM = 16, 192


def _latents(seed: int) -> torch.Tensor:
    return torch.randn(4, LATENT_DIM, generator=torch.Generator().manual_seed(seed))


def _patches(seed: int) -> torch.Tensor:
    return torch.randn(4, PATCH_DIM, generator=torch.Generator().manual_seed(seed))


def _two_turns(builder) -> dict[str, int]:
    """prompt, think, image, reflection, refined image; its blocks by name."""
    think = builder.add_text([5, 6, 7], builder.add_text([1, 2]), loss=True)
    first = builder.add_noise(_latents(0), 0.5, GRID, think)
    vit = builder.add_vit(_patches(1), GRID, builder.add_clean(_latents(2), GRID, think))
    reflection = builder.add_text([8, 9], vit, loss=True, eos_target=False)
    return {"think": think, "first": first, "reflection": reflection,
            "second": builder.add_noise(_latents(3), 0.25, GRID, reflection)}  # fmt: skip


@pytest.fixture
def model(tiny: UnifiedModel) -> UnifiedModel:
    tiny.zero_grad(set_to_none=True)
    return tiny


def test_logits_of_a_text_predict_its_ids_and_its_eos(model):
    builder = model.pack_builder()
    blocks = _two_turns(builder)
    pack = builder.build()
    think, reflection = pack.logit_slices[blocks["think"]], pack.logit_slices[blocks["reflection"]]
    assert pack.logit_targets[think].tolist() == [5, 6, 7, SPECIAL.eos]
    assert pack.text_ids[pack.logit_index[think]].tolist() == [SPECIAL.bos, 5, 6, 7]
    assert pack.logit_targets[reflection].tolist() == [8, 9]  # cut off at the token limit: its eos was not sampled
    assert pack.text_ids[pack.logit_index[reflection]].tolist() == [SPECIAL.bos, 8]


def test_velocities_are_those_of_the_noise_blocks(model):
    builder = model.pack_builder()
    blocks = _two_turns(builder)
    pack = builder.build()
    for name, seed in (("first", 0), ("second", 3)):
        rows = pack.velocity_index[pack.velocity_slices[blocks[name]]]
        assert torch.equal(pack.latents[rows], _latents(seed))


@torch.no_grad()
def test_rows_do_not_depend_on_what_they_are_padded_to(model):
    builder = model.pack_builder()
    _two_turns(builder)
    alone = model(builder.build())
    builder.new_row()
    builder.add_noise(_latents(9), 0.9, GRID, builder.add_text(list(range(30)), loss=True))
    together = model(builder.build())
    close(together.logits[: len(alone.logits)], alone.logits, 1e-5)
    close(together.velocity[: len(alone.velocity)], alone.velocity, 1e-5)


@torch.no_grad()
def test_several_noise_blocks_of_one_image_are_as_good_as_one_by_one(model):
    """The replay scores every denoising step in one pack: each must not notice the others."""
    steps = [(_latents(i), t) for i, t in enumerate((0.9, 0.6, 0.3))]
    builder = model.pack_builder()
    think = builder.add_text([1, 2, 3])
    blocks = [builder.add_noise(x, t, GRID, think) for x, t in steps]
    pack = builder.build()
    together = model(pack).velocity
    for block, (x, t) in zip(blocks, steps):
        single = model.pack_builder()
        single.add_noise(x, t, GRID, single.add_text([1, 2, 3]))
        close(together[pack.velocity_slices[block]], model(single.build()).velocity, 1e-5)


@torch.no_grad()
def test_a_shared_prefix_gives_what_two_rows_give(model):
    tree = model.pack_builder()
    prompt = tree.add_text([1, 2, 3])
    for ids in ([4, 5], [6, 7, 8]):
        tree.add_text(ids, prompt, loss=True)
    rows = model.pack_builder()
    for ids in ([4, 5], [6, 7, 8]):
        rows.add_text(ids, rows.add_text([1, 2, 3]), loss=True)
        rows.new_row()
    close(model(tree.build()).logits, model(rows.build()).logits, 1e-5)


def test_asking_for_hidden_states_changes_no_output(model):
    builder = model.pack_builder()
    _two_turns(builder)
    pack = builder.build()
    short, full = model(pack), model(pack, hidden=True)
    close(short.logits, full.logits, 1e-6)
    close(short.velocity, full.velocity, 1e-6)
    assert full.hidden.shape == (pack.tokens, model.config.llm.hidden_size)


@pytest.mark.parametrize("content", ["text", "noise"])
def test_touch_all_gives_every_weight_a_gradient(model, content):
    """Ranks reduce gradients together, so each must have the same set, whatever its pack holds."""
    builder = model.pack_builder()
    if content == "text":
        builder.add_text([1, 2], loss=True)
    else:
        builder.add_noise(_latents(0), 0.5, GRID)
    out = model(builder.build(touch_all=True))
    (out.logits.sum() + out.velocity.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_touch_all_changes_no_gradient(model):
    def gradients(touch_all):
        model.zero_grad(set_to_none=True)
        builder = model.pack_builder()
        builder.add_text([1, 2], loss=True)
        model(builder.build(touch_all=touch_all)).logits.square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, touched = gradients(False), gradients(True)
    assert len(touched) > len(plain)
    for name, gradient in touched.items():
        assert torch.equal(gradient, plain.get(name, torch.zeros_like(gradient))), name


def _image_gradients(model, context_grad) -> dict[str, float]:
    model.zero_grad(set_to_none=True)
    builder = model.pack_builder()
    _two_turns(builder)
    model(builder.build(), context_grad=context_grad).velocity.square().sum().backward()
    return {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}


def test_a_detached_context_keeps_image_losses_from_what_encodes_the_text(model):
    full = _image_gradients(model, ContextGrad.FULL)
    detached = _image_gradients(model, ContextGrad.DETACHED)
    tower = "vit_model.vision_model.embeddings.patch_embedding.weight"
    assert full[tower] > 0 and detached[tower] == 0
    assert detached["vae2llm.weight"] > 0
    own_boundary = "language_model.model.layers.0.self_attn.q_proj.weight"  # soi and eoi of the noise blocks themselves
    assert 0 < detached[own_boundary] < full[own_boundary]


def test_a_detached_context_changes_neither_outputs_nor_text_gradients(model):
    builder = model.pack_builder()
    _two_turns(builder)
    pack = builder.build()
    results = []
    for context_grad in ContextGrad:
        model.zero_grad(set_to_none=True)
        out = model(pack, context_grad=context_grad)
        out.logits.square().sum().backward()
        results.append((out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (full, full_grads), (detached, detached_grads) = results
    close(detached.velocity, full.velocity, 1e-6)
    for name, gradient in full_grads.items():
        torch.testing.assert_close(detached_grads[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_gives_the_numbers_of_the_dense_mask(model):
    builder = model.pack_builder()
    _two_turns(builder)
    builder.new_row()
    builder.add_noise(_latents(4), 0.7, GRID, builder.add_text([3, 4, 5], loss=True))
    pack = builder.build()
    flex = UnifiedModel(model.config, SPECIAL, Backend.FLEX)
    flex.load_state_dict(model.state_dict())
    with torch.no_grad():  # PyTorch has no backward of flex attention on a CPU
        dense, blocks = model(pack), flex(pack)
    close(blocks.logits, dense.logits, 1e-5)
    close(blocks.velocity, dense.velocity, 1e-5)


def test_padding_costs_flex_attention_nothing():
    """Fails where padding sees itself: a row of 100 tokens beside one of 500 would cost 9 blocks more."""
    rows = [Layout(), Layout()]
    rows[0].add(Kind.VIT, 498)
    rows[1].add(Kind.VIT, 98)
    visibility = Visibility.of(rows)
    mask = block_mask(visibility)
    assert mask.BLOCK_SIZE == (128, 128)
    computed = mask.kv_num_blocks + mask.full_kv_num_blocks
    assert computed[:, 0].tolist() == [[4, 4, 4, 4], [1, 0, 0, 0]]
    assert visibility.dense()[1, 150, 150], "SDPA needs a key for every query"


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_tokens_that_see_nothing_are_zero_and_those_beside_them_as_with_sdpa():
    rows = [Layout(), Layout()]
    rows[0].add(Kind.TEXT, 140)
    rows[1].add(Kind.TEXT, 30)
    visibility, generator = Visibility.of(rows), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 142, 16, generator=generator) for _ in range(3))
    found = flex_attention(q, k, v, block_mask(visibility))
    wanted = grouped_attention(q, k, v, visibility.dense()[:, None])
    close(found[0], wanted[0], 1e-5)
    close(found[1, :, :32], wanted[1, :, :32], 1e-5)
    assert (found[1, :, 32:] == 0).all()


@torch.no_grad()
def test_a_bf16_model_stays_near_its_fp32_original(model):
    builder = model.pack_builder()
    _two_turns(builder)
    pack = builder.build()
    half = copy.deepcopy(model).bfloat16()
    out, exact = half(pack), model(pack)
    assert out.velocity.dtype == torch.float32
    close(out.logits, exact.logits, 0.05)
    close(out.velocity, exact.velocity, 0.05)


def test_a_grid_larger_than_the_position_table_is_refused(model):
    with pytest.raises(ValueError, match="2 x 5"):
        model.pack_builder().add_clean(torch.zeros(10, LATENT_DIM), (2, 5))


def test_tokens_that_do_not_fill_their_grid_are_refused(model):
    with pytest.raises(ValueError, match="3 image tokens"):
        model.pack_builder().add_vit(torch.zeros(3, PATCH_DIM), GRID)


def test_a_row_cannot_continue_another_row(model):
    builder = model.pack_builder()
    first = builder.add_text([1])
    builder.new_row()
    with pytest.raises(ValueError, match="row 1 cannot continue"):
        builder.add_text([2], first)


def test_an_empty_pack_is_refused(model):
    with pytest.raises(ValueError, match="at least one block"):
        model.pack_builder().build()

"""One packed training batch against the reference: layout, forward, losses and every gradient."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from irg_rl.model import attention, branched, transformer
from irg_rl.model.layout import Kind, Layout, Tokens
from tests.golden import golden
from tests.model.conftest import read_json
from tests.model.reference_pack import clean_tokens, training_pack
from tests.model.sizes import close


@pytest.fixture(scope="module", params=[True, False], ids=["one row of four trees", "four rows"])
def run(request, bagel):
    """The reference batch, its output, its losses; gradients are on the model."""
    bagel.model.zero_grad()
    reference = training_pack(bagel, one_row=request.param)
    out = bagel.model(reference.pack, hidden=True)
    g, pack = reference.numbers, reference.pack
    noisy = pack.velocity_index
    ce = F.cross_entropy(out.logits, pack.logit_targets, reduction="none")
    squared = (out.velocity - (g["noise"] - reference.clean)[noisy]) ** 2
    loss = ce.mean() + squared.mean(-1).sum() / len(noisy)
    loss.backward()
    return reference, out, ce, squared, loss


def _in_sequence(pack, stream):
    """Stream order -> the order of the packed sequence."""
    return stream[pack.slot.argsort()]


def test_layout_of_the_packed_batch_is_the_references(bagel):
    reference = training_pack(bagel, one_row=True)
    g, pack = reference.numbers, reference.pack
    assert torch.equal(pack.visibility.dense()[0], g["attention_mask"])
    assert torch.equal(_in_sequence(pack, pack.positions), g["packed_position_ids"])
    assert torch.equal(pack.text_ids, g["packed_text_ids"])
    assert torch.equal(pack.slot[: len(pack.text_ids)], g["packed_text_indexes"])
    assert torch.equal(pack.patch_position_ids, g["packed_vit_position_ids"])
    assert pack.patch_lengths == g["vit_token_seqlens"].tolist()
    assert torch.equal(pack.latent_position_ids, g["packed_latent_position_ids"])
    is_gen = torch.zeros(pack.tokens, dtype=torch.bool)
    is_gen[pack.slot[-len(pack.latents) :]] = True
    assert torch.equal(is_gen, g["expert_is_gen"])
    assert torch.equal(pack.slot[pack.logit_index], g["ce_loss_indexes"])
    assert torch.equal(pack.logit_targets, g["packed_label_ids"])
    assert torch.equal(pack.slot[-len(pack.latents) :][pack.velocity_index], g["mse_loss_indexes"])
    close(pack.latents, g["x_t_tokens"])


def test_condition_dropout_is_a_gap_in_the_rope(bagel):
    """BAGEL's dropped images leave their rope position unused; dropped texts leave nothing."""
    g, plan, full = golden("bagel/training_dropout_layout"), read_json("training_dropout_layout"), read_json("training")
    lengths = iter(full["split_lens"])
    layout, parent, gap, sample = Layout(), None, 0, None
    for item in plan["items"]:
        tokens = next(lengths)
        if item["sample"] != sample:
            parent, gap, sample = None, 0, item["sample"]
        if item["dropped"]:
            gap += item["type"] != "text"
            continue
        noisy = item["type"] == "vae_image" and item["loss"]
        kind = {"text": Kind.TEXT, "vit_image": Kind.VIT, "vae_image": Kind.NOISE if noisy else Kind.CLEAN}[
            item["type"]
        ]
        block = layout.add(kind, tokens - 2, parent, gap)
        if not noisy:
            parent, gap = block, 0
    assert torch.equal(layout.visibility(), g["attention_mask"])
    assert torch.equal(layout.positions(), g["packed_position_ids"])
    assert torch.equal(torch.from_numpy(Tokens([layout]).is_latent).nonzero()[:, 0], g["packed_vae_token_indexes"])


def test_hidden_states_and_velocities_are_the_references(run):
    reference, out, *_ = run
    close(_in_sequence(reference.pack, out.hidden), reference.numbers["last_hidden_state"])
    close(out.velocity, reference.numbers["mse_preds"])


def test_losses_are_the_references(run):
    reference, _, ce, squared, loss = run
    close(ce, reference.numbers["ce_per_token"])
    close(squared, reference.numbers["mse_per_element"])
    close(loss, reference.numbers["loss_total"])


def test_every_gradient_is_the_references(run, bagel):
    reference = run[0]
    norms = {name: norm for name, norm in reference.plan["grad_norms"].items() if not name.endswith("pos_embed")}
    parameters = dict(bagel.model.named_parameters())
    assert set(parameters) == set(norms)
    floor = 1e-6 * reference.plan["grad_norm_total"]  # ViT key biases: zero by construction, rounding alone
    for name, norm in norms.items():
        found = parameters[name].grad.norm().item()
        assert abs(found - norm) <= 1e-4 * norm + floor, f"{name}: gradient norm {found}, reference {norm}"
    for key in reference.numbers.tensors:
        if key.startswith("grad."):
            close(parameters[key.removeprefix("grad.")].grad, reference.numbers[key])


@pytest.mark.parametrize("one_row", [True, False])
def test_every_gradient_is_that_of_plain_autograd_element_by_element(bagel, monkeypatch, one_row):
    """The reference stores 17 gradients whole and the norms of all. So all gradients that this model writes by hand are
    compared whole with those that autograd derives from the plain formulas."""

    def gradients() -> dict[str, torch.Tensor]:
        bagel.model.zero_grad()
        reference = training_pack(bagel, one_row=one_row)
        out, noisy = bagel.model(reference.pack), reference.pack.velocity_index
        squared = (out.velocity - (reference.numbers["noise"] - reference.clean)[noisy]) ** 2
        (F.cross_entropy(out.logits, reference.pack.logit_targets) + squared.mean()).backward()
        return {name: parameter.grad.clone() for name, parameter in bagel.model.named_parameters()}

    written = gradients()
    monkeypatch.setattr(transformer, "rms_norm", plain_rms_norm)
    monkeypatch.setattr(transformer, "Rotate", SimpleNamespace(apply=plain_rotation))
    monkeypatch.setattr(attention, "Move", SimpleNamespace(apply=lambda x, index, _: x.index_select(0, index)))
    monkeypatch.setattr(branched, "Move", SimpleNamespace(apply=lambda x, index, _: x.index_select(0, index)))
    derived = gradients()
    assert len(written) == 109  # the two position tables are not trained
    floor = 1e-6 * max(gradient.abs().max().item() for gradient in derived.values())  # ViT key biases: rounding alone
    for name, gradient in derived.items():
        error = (written[name] - gradient).abs().max().item()
        assert error <= 1e-4 * gradient.abs().max().item() + floor, f"{name}: off by {error:.3g}"


def plain_rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def plain_rotation(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def test_layer_inputs_and_outputs_are_the_references(bagel):
    reference = training_pack(bagel, one_row=True)
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[:2], output)))
        for layer in bagel.model.language_model.model.layers
    ]
    with torch.no_grad():
        bagel.model(reference.pack, hidden=True)
    for hook in hooks:
        hook.remove()
    close(_in_sequence(reference.pack, torch.cat(seen[0][0])), reference.numbers["llm_input"])
    for index, (_, output) in enumerate(seen):
        close(_in_sequence(reference.pack, torch.cat(output)), reference.numbers[f"layer_out.{index}"])


@torch.no_grad()
def test_training_latents_are_the_references(bagel):
    g = golden("bagel/training")
    mean, logvar = bagel.autoencoder.encode(g["padded_images"])
    close(bagel.autoencoder.sample(mean, logvar, eps=g["vae_eps"]), g["padded_latent"])
    times = g["timesteps_shifted"][:, None]
    close((1 - times) * clean_tokens(g) + times * g["noise"], g["x_t_tokens"])

"""The loss of a pack by hand, and the losses of parts against that of the whole."""

import json
import math

import pytest
import torch

from irg_rl.config import Dropout
from irg_rl.model.unified import ModelOutput
from sft.loss import Counts, right_tokens, sft_loss
from sft.packing import RowLayout, SFTPack
from sft.rows import parse_row
from tests.sft.material import encoder, improving_full, initial_full, thinking

ROWS = [improving_full(1), initial_full(2), thinking(3), initial_full(4)]


def packs_of(world, groups, seed=0) -> list[SFTPack]:
    """One pack per group of rows; all draws come from one generator in row order."""
    generator, layout = torch.Generator().manual_seed(seed), RowLayout(Dropout(), (2, 2), 1.0)
    encoded = [encoder(world).encode([parse_row(json.dumps(row)) for row in rows]) for rows in groups]
    return [layout.pack(world.model.pack_builder(), rows, generator) for rows in encoded]


def gradients(world, packs, ce_weight=1.0, mse_weight=1.0):
    counts, model, losses = Counts.of(packs), world.copy(), {"ce": 0.0, "mse": 0.0}
    for pack in packs:
        terms = sft_loss(model(pack.pack), pack, counts, ce_weight, mse_weight)
        sum(terms.values()).backward()
        losses = {name: losses[name] + terms[name].item() for name in losses}
    return losses, {name: p.grad for name, p in model.named_parameters()}


def test_parts_of_several_packs_add_up_to_one_big_pack(world):
    whole, of_whole = gradients(world, packs_of(world, [ROWS]))
    for split in ([ROWS[:1], ROWS[1:]], [[row] for row in ROWS]):
        parts, of_parts = gradients(world, packs_of(world, split))
        assert parts == pytest.approx(whole, rel=1e-5)
        for name, gradient in of_whole.items():
            error = (of_parts[name] - gradient).abs().max()
            assert error <= 1e-4 * gradient.abs().max() + 1e-7, f"{name} is off by {error}"


def small_pack(world, targets, velocities) -> SFTPack:
    """A pack with two labels and one image of four latent tokens, with given answers."""
    pack = packs_of(world, [[initial_full(1)]])[0]
    pack.pack.logit_targets = torch.tensor(targets)
    return SFTPack(pack.pack, velocities)


def test_values_by_hand(world):
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # 3/4 for the right answer, then 1/2
    pack = small_pack(world, [1, 0], torch.zeros(2, 16))
    velocity = torch.zeros(2, 16)
    velocity[0, :4] = 2.0  # mean over 16 numbers: 4 * 4 / 16 = 1
    velocity[1, :] = 3.0  # 9
    terms = sft_loss(ModelOutput(logits, velocity), pack, Counts(text=4, latent=5), ce_weight=2.0, mse_weight=0.5)
    assert terms["ce"].item() == pytest.approx(2.0 * (math.log(4 / 3) + math.log(2)) / 4)
    assert terms["mse"].item() == pytest.approx(0.5 * (1 + 9) / 5)
    assert right_tokens(ModelOutput(logits, velocity), pack) == 2  # a tie goes to the first word


def test_counts_are_label_tokens_and_noise_tokens_of_all_packs(world):
    counts = Counts.of(packs_of(world, [ROWS[:2], ROWS[2:]]))
    words = ("the square is missing", "a red circle", "a green star", "a red circle")
    assert counts.text == sum(len(world.tokenizer.encode(w)) + 1 for w in words)
    assert counts.latent == 3 * 2 * 4


def test_a_pack_without_any_image_has_no_flow_error_and_still_reaches_every_weight(world):
    """A rank whose packs lack a modality must reduce the same gradients as the others."""
    (pack,) = packs_of(world, [[thinking(1)]])
    model = world.copy()
    terms = sft_loss(model(pack.pack), pack, Counts.of([pack]), 1.0, 1.0)
    assert terms["mse"].item() == 0.0
    sum(terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.llm2vae.weight.grad.abs().max() == 0


def test_weights_scale_their_term_alone(world):
    packs = packs_of(world, [ROWS])
    once, _ = gradients(world, packs)
    more, _ = gradients(world, packs, ce_weight=0.25, mse_weight=2.0)
    assert more == pytest.approx({"ce": 0.25 * once["ce"], "mse": 2 * once["mse"]}, rel=1e-6)

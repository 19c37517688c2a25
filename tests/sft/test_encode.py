"""Encoded rows: equal to the autoencoder's own numbers, cached, and never dependent on their batch."""

import json

import pytest
import torch

from irg_rl.model.autoencoder import from_uint8
from sft.encode import EncodedText, RowEncoder
from sft.packing import RowLayout
from sft.rows import parse_row
from tests.sft.material import (
    NO_DROPOUT,
    assistant,
    drawn,
    encoder,
    image,
    improving_full,
    initial_full,
    pixels,
    seen,
    text,
    thinking,
    user,
)  # fmt: skip


def row(content):
    return parse_row(json.dumps(content))


class Counting(torch.nn.Module):
    """The autoencoder, noting the size of every batch it encodes."""

    def __init__(self, vae):
        super().__init__()
        self.vae, self.config, self.batches = vae, vae.config, []
        self.scale, self.tokens, self.grid = vae.scale, vae.tokens, vae.grid

    def encode(self, batch):
        self.batches.append(tuple(batch.shape))
        return self.vae.encode(batch)


def counting(world, **options) -> tuple[RowEncoder, Counting]:
    made = encoder(world, **options)
    made.vae = Counting(world.vae)
    return made, made.vae


def test_texts_become_ids_with_their_flag(world):
    (made,) = encoder(world).encode([row(thinking(3))])
    assert all(isinstance(part, EncodedText) for part in made)
    assert [part.ids.tolist() for part in made] == [world.tokenizer.encode(t) for t in ("row3 green", "a green star")]
    assert [part.loss for part in made] == [False, True]


def test_a_sample_of_the_moments_is_the_autoencoders_scaled_sample(world):
    (made,) = encoder(world).encode([row([assistant(drawn(5))])])
    eps = torch.randn(made[0].mean.shape, generator=torch.Generator().manual_seed(1))
    mean, logvar = world.vae.encode(from_uint8(torch.from_numpy(pixels(5)))[None])
    expected = world.vae.sample(mean, logvar, eps=world.vae.latent(eps[None], made[0].grid))
    torch.testing.assert_close(made[0].sample(torch.Generator().manual_seed(1)), world.vae.tokens(expected)[0])
    assert made[0].grid == (2, 2) and made[0].patches is None and made[0].target


def test_patches_are_made_only_of_images_that_are_looked_at(world):
    (made,) = encoder(world).encode([row([user("d"), assistant(seen(0), text("a"), image(1, need_vae=True))])])
    assert made[1].patches.shape == (4, 192) and made[1].vit_grid == (2, 2) and made[1].vae and not made[1].target
    assert made[3].patches is None and made[3].vae


def test_moments_are_cached_by_the_pixels(world):
    made, vae = counting(world)
    first = made.encode([row(improving_full(1))])[0]
    calls = len(vae.batches)
    again = made.encode([row([assistant(drawn(1))]), row(improving_full(1, "other words"))])
    assert len(vae.batches) == calls == 1
    assert torch.equal(again[0][0].mean, first[2].mean) and torch.equal(again[1][2].logvar, first[2].logvar)


def test_a_full_cache_forgets_what_was_used_longest_ago(world):
    bytes_of_one = 2 * 4 * 16 * 4  # mean and log-variance of 4 tokens of 16 numbers in fp32
    made, vae = counting(world, cache_bytes=2 * bytes_of_one)
    for seed in (1, 2, 1, 3):  # 3 puts 2 out: 1 was used since
        made.encode([row([assistant(drawn(seed))])])
    assert len(vae.batches) == 3
    made.encode([row([assistant(drawn(1))])])
    assert len(vae.batches) == 3
    made.encode([row([assistant(drawn(2))])])
    assert len(vae.batches) == 4


def test_images_are_batched_by_equal_size_and_never_padded(world):
    made, vae = counting(world)
    sizes = [(16, 16), (16, 32), (16, 16), (32, 16)]
    rows = [row([assistant(image(n, size, need_loss=True))]) for n, size in enumerate(sizes)]
    grids = [encoded[0].grid for encoded in made.encode(rows)]
    assert grids == [(2, 2), (2, 4), (2, 2), (4, 2)]
    assert sorted(shape[2:] for shape in vae.batches) == [(16, 16), (16, 32), (32, 16)]


def test_moments_do_not_depend_on_what_else_is_encoded(world):
    """Or a resumed run, whose cache is empty, would differ from an uninterrupted one in the last bits."""
    rows = [row([assistant(drawn(seed))]) for seed in range(40)]
    together = encoder(world).encode(rows)
    for number in (0, 17, 39):
        alone = encoder(world).encode([rows[number]])[0]
        assert torch.equal(alone[0].mean, together[number][0].mean)
        assert torch.equal(alone[0].logvar, together[number][0].logvar)


MIXED = [user("draw"), assistant(text("think"), image(0, (16, 32), need_loss=True, need_vae=True, need_vit=True))]


@pytest.mark.parametrize("noise_blocks", [(1, 1), (4, 4), (3, 1), (1, 5)])
@pytest.mark.parametrize("content", [thinking(1), initial_full(2), improving_full(3), MIXED])
def test_counted_tokens_are_those_of_the_pack(world, content, noise_blocks):
    made = encoder(world)
    layout = RowLayout(NO_DROPOUT, noise_blocks, 1.0)
    pack = layout.pack(world.model.pack_builder(), made.encode([row(content)]), torch.Generator()).pack
    assert made.count_tokens(row(content), noise_blocks) == pack.tokens

"""Rows in packs: which contexts noise blocks get, what is learned of each text, and a stream that loses nothing."""

import json
from collections import Counter

import pytest
import torch

from irg_rl.config import Dropout, GuidanceRecipe
from irg_rl.guidance import guide
from irg_rl.model.pack import PackBuilder
from rollouts.contexts import Contexts
from rollouts.images import ImageContext
from sft.packing import RowLayout
from sft.rows import parse_row
from tests.sft.material import (
    NO_DROPOUT,
    assistant,
    drawn,
    encoder,
    improving_full,
    initial_full,
    seen,
    text,
    thinking,
    user,
)

SYSTEM = [5, 6, 7]
GUIDED = GuidanceRecipe(text_scale=3.0, image_scale=2.0, first_interval=(0.0, 1.0))


class Noted(PackBuilder):
    """A builder that notes its blocks: (kind, parent, gap), by number."""

    def __init__(self, world):
        config = world.model.config
        super().__init__(world.model.special, config.max_latent_size, config.vit.max_patches_per_side)
        self.blocks: list[tuple[str, int | None, int]] = []

    def add_text(self, ids, parent=None, **options):
        return self._note("text", super().add_text(ids, parent, **options), parent, options.get("gap", 0))

    def add_clean(self, latents, grid, parent=None, gap=0):
        return self._note("clean", super().add_clean(latents, grid, parent, gap), parent, gap)

    def add_noise(self, x_t, t, grid, parent=None, gap=0):
        return self._note("noise", super().add_noise(x_t, t, grid, parent, gap), parent, gap)

    def add_vit(self, patches, grid, parent=None, gap=0):
        return self._note("vit", super().add_vit(patches, grid, parent, gap), parent, gap)

    def _note(self, kind, number, parent, gap):
        self.blocks.append((kind, parent, gap))
        return number

    def context(self, number: int) -> list[int]:
        """The blocks that a block continues, oldest first."""
        parent = self.blocks[number][1]
        return [] if parent is None else [*self.context(parent), parent]

    def noises(self) -> list[int]:
        return [number for number, (kind, _, _) in enumerate(self.blocks) if kind == "noise"]


def lay_out(world, rows, dropout=NO_DROPOUT, noise_blocks=1, shift=1.0, system=None, seed=0):
    """(builder, pack) of rows given as conversations."""
    builder = Noted(world)
    encoded = encoder(world).encode([parse_row(json.dumps(row)) for row in rows])
    layout = RowLayout(dropout, (noise_blocks, noise_blocks), shift, system)
    return builder, layout.pack(builder, encoded, torch.Generator().manual_seed(seed))


# --- guidance branches


def contexts_of(world, row, turn: int, pack) -> Contexts:
    """The sampler's contexts right before the last image of `row` is drawn, with the pack's own condition latents."""
    (encoded,) = encoder(world).encode([parse_row(json.dumps(row))])
    one = torch.arange(1)
    contexts = Contexts(world.model, [encoded[0].ids.tolist()], SYSTEM, 400, "full", GUIDED)
    latents = iter(pack.pack.latents.split(4))
    texts, images = [p for p in encoded[1:] if hasattr(p, "ids")], [p for p in encoded if not hasattr(p, "ids")]
    for number, said in enumerate(texts[: turn + 1]):
        if number:
            image = images[number - 1]
            contexts.add_images(one, [ImageContext(next(latents), image.grid, image.patches, image.vit_grid)])
        contexts.begin_text(number)
        contexts.add_text(one, [said.ids])
        contexts.end_text(one, [said.ids], number)
    return contexts


@torch.no_grad()
@pytest.mark.parametrize("turn", [0, 1])
def test_dropped_branches_are_exactly_the_contexts_that_guidance_uses(world, turn):
    """One velocity per branch, each from the SFT pack that trains it, combined as guidance does, is what the sampler
    computes from its cached contexts: same tokens, same order, same positions."""
    row = improving_full(1) if turn else initial_full(1)
    shares = {"full": {}, "text": {"last_text": 1.0} if turn else {"all_text": 1.0}, "image": {"image": 1.0}}
    packs = {
        name: lay_out(world, [row], Dropout(**({"image": 0, "last_text": 0, "all_text": 0} | share)), system=SYSTEM)[1]
        for name, share in shares.items()
    }
    x_t = packs["full"].pack.latents[-4:]
    assert all(torch.equal(pack.pack.latents[-4:], x_t) for pack in packs.values())
    velocities = {name: world.model(pack.pack).velocity for name, pack in packs.items()}
    expected = guide(
        velocities["full"], velocities["text"], velocities["image"] if turn else None, text_scale=3.0,
        image_scale=2.0 if turn else 1.0, renorm=GUIDED.renorm if turn else GUIDED.first_renorm,
    )  # fmt: skip
    time = float(packs["full"].pack.times[-1])
    contexts = contexts_of(world, row, turn, packs["full"])
    got = contexts.drawing((2, 2), torch.arange(1), turn)(x_t[None], time)
    torch.testing.assert_close(got[0], expected, atol=2e-5, rtol=1e-5)
    for name in ("text", "image")[: turn + 1]:
        assert (velocities[name] - velocities["full"]).abs().max() > 1e-3, f"the {name} branch changes nothing"


def test_a_first_image_drops_all_text_and_nothing_else(world):
    only = dict(image=0.0, last_text=0.0, all_text=0.0)
    for share in ("image", "last_text"):
        builder, _ = lay_out(world, [initial_full(1)], Dropout(**only | {share: 1.0}), noise_blocks=3)
        assert {len(builder.context(n)) for n in builder.noises()} == {2}
    builder, _ = lay_out(world, [initial_full(1)], Dropout(**only | {"all_text": 1.0}), noise_blocks=3)
    assert {len(builder.context(n)) for n in builder.noises()} == {0}


def test_a_refinement_never_drops_all_text(world):
    builder, _ = lay_out(world, [improving_full(1)], Dropout(image=0, last_text=0, all_text=1.0), noise_blocks=3)
    assert {len(builder.context(n)) for n in builder.noises()} == {5}


def test_the_no_image_branch_repeats_the_reflection_alone_and_closes_positions_up(world):
    builder, pack = lay_out(world, [improving_full(1)], Dropout(image=1.0, last_text=0, all_text=0), noise_blocks=4)
    kinds = [kind for kind, _, _ in builder.blocks]
    assert Counter(kinds) == {"text": 4, "clean": 1, "vit": 1, "noise": 4}  # prompt, think, reflection, and it again
    contexts = [builder.context(n) for n in builder.noises()]
    assert all(context == contexts[0] for context in contexts)
    assert [kinds[n] for n in contexts[0]] == ["text"] * 3 and contexts[0][:2] == [0, 1]
    _, whole = lay_out(world, [improving_full(1)])
    first = sum(len(world.tokenizer.encode(words)) + 2 for words in ("row1 blue", "a blue square"))
    reflection = len(world.tokenizer.encode("the square is missing")) + 2
    assert set(pack.pack.positions[-16:].tolist()) == {first + reflection}
    assert whole.pack.positions[-1] == first + 2 + reflection  # the clean image and its patches take a position each
    assert pack.pack.tokens == whole.pack.tokens + 3 * 6 + reflection


def test_every_refinement_of_a_deep_row_has_its_own_reflections_in_the_no_image_branch(world):
    parts = (
        text("a blue square", need_loss=False), seen(1), text("first"), drawn(2, need_vae=True, need_vit=True),
        text("second"), drawn(3),
    )  # fmt: skip
    dropout = Dropout(image=1.0, last_text=0, all_text=0)
    builder, _ = lay_out(world, [[user("row1"), assistant(*parts)]], dropout, noise_blocks=2)
    lengths = [len(builder.context(n)) for n in builder.noises()]
    assert lengths == [3, 3, 4, 4]
    assert all(builder.blocks[b][0] == "text" for n in builder.noises() for b in builder.context(n))


def test_shares_of_the_branches_are_those_of_the_recipe(world):
    dropout = Dropout(image=0.2, last_text=0.3, all_text=0)
    builder, _ = lay_out(world, [improving_full(1)], dropout, noise_blocks=600)
    found = Counter(len(builder.context(n)) for n in builder.noises())
    assert found[3] == pytest.approx(120, abs=40) and found[4] == pytest.approx(180, abs=45)
    assert found[5] == pytest.approx(300, abs=50) and set(found) == {3, 4, 5}


def test_texts_keep_their_labels_whatever_is_dropped(world):
    everything = Dropout(image=0.5, last_text=0.5, all_text=1.0)
    plain, dropped = (lay_out(world, [improving_full(1), initial_full(2)], d)[1].pack for d in (NO_DROPOUT, everything))
    assert torch.equal(plain.logit_targets, dropped.logit_targets)


def test_a_system_text_begins_every_row_and_survives_every_branch(world):
    everything = Dropout(image=0.5, last_text=0.5, all_text=1.0)
    rows = [improving_full(1), initial_full(2)]
    builder, pack = lay_out(world, rows, everything, noise_blocks=4, system=SYSTEM)
    roots = [number for number, (_, parent, _) in enumerate(builder.blocks) if parent is None]
    assert len(roots) == 2 and all(builder.blocks[n][0] == "text" for n in roots)
    assert all(builder.context(n)[0] in roots for n in builder.noises())
    assert pack.pack.text_ids[:5].tolist() == [world.model.special.bos, *SYSTEM, world.model.special.eos]
    assert not any(token in pack.pack.logit_targets for token in SYSTEM)


# --- what is learned


def test_labels_are_the_trained_texts_each_with_its_end(world):
    _, pack = lay_out(world, [improving_full(1), initial_full(2), thinking(3)])
    eos = world.model.special.eos
    words = ("the square is missing", "a red circle", "a green star")
    assert pack.pack.logit_targets.tolist() == [i for w in words for i in [*world.tokenizer.encode(w), eos]]


def test_each_target_gets_several_noise_blocks_at_its_own_place(world):
    builder, pack = lay_out(world, [initial_full(2), improving_full(1)], noise_blocks=4)
    assert len(pack.pack.times) == 4 + 4 + 1 and pack.velocities.shape == (8 * 4, 16)
    assert len({round(t, 6) for t in pack.pack.times.tolist()}) == 9  # eight levels, and 0 of the clean image
    first, second = builder.noises()[:4], builder.noises()[4:]
    assert {tuple(builder.context(n)) for n in first} == {(0, 1)}
    assert len({tuple(builder.context(n)) for n in second}) == 1 and len(builder.context(second[0])) == 5


def test_noise_blocks_lie_on_the_line_from_one_clean_sample_to_their_noise(world):
    _, pack = lay_out(world, [initial_full(2)], noise_blocks=4)
    times = pack.pack.times[:, None, None]
    x_t, v = pack.pack.latents.view(4, 4, 16), pack.velocities.view(4, 4, 16)
    clean, noise = x_t - times * v, x_t + (1 - times) * v
    torch.testing.assert_close(clean, clean[:1].expand(4, -1, -1), atol=1e-5, rtol=1e-5)
    assert len({round(float(n), 4) for n in noise[:, 0, 0]}) == 4
    (encoded,) = encoder(world).encode([parse_row(json.dumps(initial_full(2)))])
    deviation = (clean[0] - encoded[2].mean) / torch.exp(0.5 * encoded[2].logvar)
    assert deviation.abs().max() < 6 and deviation.abs().mean() > 0.1  # a sample of the posterior, not its mean


def test_the_shift_moves_times_towards_noise_by_its_formula(world):
    plain, shifted = (lay_out(world, [initial_full(2)], noise_blocks=8, shift=s)[1].pack.times for s in (1.0, 4.0))
    torch.testing.assert_close(shifted, 4 * plain / (1 + 3 * plain))


# --- the original's dropout


def positions_of_noise(world, **shares) -> tuple[Noted, int]:
    settings = {"irg_text": 0.0, "irg_vit": 0.0, "irg_vae": 0.0} | shares
    builder, pack = lay_out(world, [improving_full(1)], Dropout(mode="irg", **settings))
    return builder, int(pack.pack.positions[-1])  # stream order ends with latents; the last are the target's


def test_irg_without_dropout_is_the_full_row(world):
    builder, position = positions_of_noise(world)
    full, pack = lay_out(world, [improving_full(1)])
    assert builder.blocks == full.blocks and position == int(pack.pack.positions[-1])


@pytest.mark.parametrize(("dropped", "kinds", "gap"), [
    ({"irg_vae": 1.0}, ["text", "text", "vit", "text", "noise"], 1),
    ({"irg_vit": 1.0}, ["text", "text", "clean", "text", "noise"], 1),
    ({"irg_vae": 1.0, "irg_vit": 1.0}, ["text", "text", "text", "noise"], 2),
])  # fmt: skip
def test_irg_leaves_a_gap_where_an_image_was(world, dropped, kinds, gap):
    _, full = positions_of_noise(world)
    builder, position = positions_of_noise(world, **dropped)
    assert [kind for kind, _, _ in builder.blocks] == kinds
    assert position == full and sum(g for _, _, g in builder.blocks) == gap


def test_irg_drops_texts_without_a_gap_and_never_the_target(world):
    builder, position = positions_of_noise(world, irg_text=1.0)
    assert [kind for kind, _, _ in builder.blocks] == ["clean", "vit", "noise"] and position == 2


def test_irg_drops_about_the_given_share(world):
    rows = [improving_full(n) for n in range(60)]
    builder, _ = lay_out(world, rows, Dropout(mode="irg", irg_vae=0.3))
    assert Counter(kind for kind, _, _ in builder.blocks)["clean"] == pytest.approx(42, abs=11)


def test_first_images_and_refinements_have_numbers_of_noise_blocks_of_their_own(world):
    """Fails where `first_noise_blocks` is taken for all images."""
    builder = Noted(world)
    rows = [parse_row(json.dumps(row)) for row in (initial_full(2), improving_full(1))]
    pack = RowLayout(NO_DROPOUT, (5, 2), 1.0, None).pack(builder, encoder(world).encode(rows), torch.Generator())
    contexts = [len(builder.context(number)) for number in builder.noises()]
    assert len(contexts) == 7 and contexts == sorted(contexts) and contexts.count(min(contexts)) == 5
    assert pack.velocities.shape == (7 * 4, 16)

"""Incremental inference against the reference: greedy text, the two-turn pipeline, guided velocities, an edit."""

import pytest
import torch

from irg_rl.flow import bagel_grid
from irg_rl.model.autoencoder import from_uint8, to_uint8
from irg_rl.model.transforms import Resize, vit_patches
from tests.golden import golden
from tests.model.sizes import close


def guide(v, v_text=None, v_image=None, *, text=4.0, image=2.0, renorm="global", least=0.0):
    """The reference's combination of a velocity and its unconditional ones (reference section 4.4)."""

    def shrink(guided, dims):
        scale = v.norm(dim=dims, keepdim=True) / (guided.norm(dim=dims, keepdim=True) + 1e-8)
        return guided * scale.clamp(least, 1.0)

    guided = v_text + text * (v - v_text)
    if renorm == "text_channel":
        guided = shrink(guided, -1)
    if v_image is not None:
        guided = v_image + image * (guided - v_image)
    return guided if renorm == "text_channel" else shrink(guided, -1 if renorm == "channel" else (-2, -1))


@pytest.fixture(scope="module")
def ids(bagel, meta):
    return {name: bagel.tokenizer.encode(text) for name, text in meta["texts"].items()}


def test_prefill_writes_the_references_keys_and_values(bagel, ids):
    g, model = golden("bagel/inference_text"), bagel.model
    cache = model.new_cache(1, 128)
    model.prefill_text(cache, [ids["system"]])
    model.prefill_text(cache, [ids["prompt"]])
    assert cache.lengths.tolist() == cache.positions.tolist() == [98]
    for layer in (0, 1):
        close(cache.keys[layer][0, :, :98].transpose(0, 1), g[f"cache.key.{layer}"])
        close(cache.values[layer][0, :, :98].transpose(0, 1), g[f"cache.value.{layer}"])


def test_greedy_decoding_gives_the_references_tokens(bagel, ids):
    g, model = golden("bagel/inference_text"), bagel.model
    cache = model.new_cache(1, 128)
    model.prefill_text(cache, [ids["system"]])
    model.prefill_text(cache, [ids["prompt"]])
    assert cache.positions.tolist() == g["start_position_id"].tolist()
    token, decoded, logits = torch.tensor([bagel.tokenizer.special.bos]), [], []
    for _ in range(12):
        logits.append(model.next_logits(cache, token))
        token = logits[-1].argmax(-1)
        decoded.append(token.item())
    close(logits[0][0], g["next_token_logits"])
    close(torch.cat(logits), g["greedy_logits"])
    assert decoded == g["greedy_ids"].tolist()


@torch.no_grad()
def test_hidden_states_of_the_two_texts_are_the_references(bagel, ids):
    g, builder = golden("bagel/inference_text"), bagel.model.pack_builder()
    builder.add_text(ids["prompt"], builder.add_text(ids["system"]))
    pack = builder.build()
    out = bagel.model(pack, hidden=True)
    assert torch.equal(pack.text_ids, torch.cat([g["system_ids"], g["prompt_ids"]]))
    close(out.hidden, torch.cat([g["system_hidden"], g["prompt_hidden"]]))
    close(bagel.model.language_model.lm_head(out.hidden)[[65, 97]],
          torch.stack([g["system_logits_last"], g["prompt_logits_last"]]))  # fmt: skip


class Pipeline:
    """The reference's two-turn run, started from the stored first image."""

    def __init__(self, bagel, meta, ids):
        self.bagel, self.ids = bagel, ids
        g = self.g = golden("bagel/inference_irg")
        model = bagel.model
        self.grid = bagel.autoencoder.grid(*meta["image_shape_hw"])
        cache = self.cache = model.new_cache(1, 256)
        model.prefill_text(cache, [ids["system"]])
        self.after_system = cache.mark()
        model.prefill_text(cache, [ids["prompt"]])
        model.prefill_text(cache, [ids["think1"]])
        self.turn1 = cache.mark()
        self.clean, self.clean_grid, self.patches, self.patch_grid = self.see(g["turn1.image_uint8"], meta)
        model.prefill_image(cache, [self.clean], self.clean_grid, [self.patches], self.patch_grid)
        self.before_think2 = cache.mark()
        model.prefill_text(cache, [ids["think2"]])
        self.no_image = model.new_cache(1, 256)
        for name in ("system", "prompt", "think1", "think2"):
            model.prefill_text(self.no_image, [ids[name]])

    @torch.no_grad()
    def see(self, image, meta):
        vae = self.bagel.autoencoder
        resized = Resize(*meta["vae_transform"])(image)
        latent = vae.sample(*vae.encode(from_uint8(resized)[None]), eps=self.g["image1.vae_eps"])
        close(latent, self.g["image1.vae_latent"])
        patches, grid = vit_patches(Resize(*meta["vit_transform"])(image), 14)
        return vae.tokens(latent)[0], vae.grid(*resized.shape[:2]), patches, grid

    def velocity(self, branch, x, t):
        """One velocity [N, D] in one of the contexts that guidance compares."""
        contexts = {
            "turn1.full": (self.cache, self.turn1),
            "turn1.notext": (self.cache, self.after_system),
            "turn2.full": (self.cache, None),
            "turn2.notext": (self.cache, self.before_think2),
            "turn2.noimage": (self.no_image, None),
        }
        cache, mark = contexts[branch]
        return self.bagel.model.velocity(cache, x[None], torch.tensor([t]), self.grid, at=mark)[0]

    def draw(self, turn, *, points=6, interval=(0.4, 1.0), guided=True, **settings):
        """Euler steps from the stored noise: states, velocities."""
        x = self.g[f"turn{turn}.init_noise"]
        states, velocities, times = [x], [], bagel_grid(points, 3.0)
        for t, t_next in zip(times[:-1].tolist(), times[1:].tolist()):
            v = self.velocity(f"turn{turn}.full", x, t)
            if guided and interval[0] < t <= interval[1]:
                v_text = self.velocity(f"turn{turn}.notext", x, t)
                v_image = self.velocity("turn2.noimage", x, t) if turn == 2 else None
                v = guide(v, v_text, v_image, **settings)
            x = x - v * (t - t_next)
            states.append(x)
            velocities.append(v)
        return torch.stack(states), torch.stack(velocities)


@pytest.fixture(scope="module")
def pipeline(bagel, meta, ids):
    return Pipeline(bagel, meta, ids)


def test_contexts_have_the_references_lengths_and_positions(pipeline, meta):
    marks = {
        "turn1.full": pipeline.turn1,
        "turn1.notext": pipeline.after_system,
        "turn2.full": pipeline.cache.mark(),
        "turn2.notext": pipeline.before_think2,
        "turn2.noimage": pipeline.no_image.mark(),
    }
    for name, expected in meta["contexts"].items():
        assert (marks[name].lengths.item(), marks[name].positions.item()) == (expected["kv_len"], expected["rope"])


def test_the_image_in_context_is_the_references(pipeline):
    g = pipeline.g
    assert torch.equal(pipeline.patches, g["image1.vit_tokens"])
    close(pipeline.cache.keys[1][0, :, :246].transpose(0, 1), g["cache_full.key.1"])
    close(pipeline.cache.values[1][0, :, :246].transpose(0, 1), g["cache_full.value.1"])


def test_turn_one_is_the_references(pipeline, bagel):
    states, velocities = pipeline.draw(1)
    close(velocities, pipeline.g["turn1.v"])
    close(states, pipeline.g["turn1.x"])
    latent = bagel.autoencoder.latent(states[-1][None], pipeline.grid)
    close(latent, pipeline.g["turn1.final_latent_nchw"])
    with torch.no_grad():
        image = bagel.autoencoder.decode(latent)
    close(image, pipeline.g["turn1.image"])
    assert _bytes_differ_rarely(to_uint8(image)[0], pipeline.g["turn1.image_uint8"])


def test_turn_two_is_the_references(pipeline, bagel):
    states, velocities = pipeline.draw(2, interval=(0.0, 1.0), renorm="text_channel")
    close(velocities, pipeline.g["turn2.v"])
    close(states, pipeline.g["turn2.x"])
    with torch.no_grad():
        image = bagel.autoencoder.decode(bagel.autoencoder.latent(states[-1][None], pipeline.grid))
    assert _bytes_differ_rarely(to_uint8(image)[0], pipeline.g["turn2.image_uint8"])


@pytest.mark.parametrize(
    ("key", "turn", "settings"),
    [
        ("turn1.final_latent_nocfg", 1, {"guided": False}),
        ("turn1.final_latent_interval_0.5_0.95", 1, {"interval": (0.5, 0.95)}),
        ("turn1.final_latent_num_timesteps_7", 1, {"points": 7}),
        ("turn2.final_latent_global", 2, {"interval": (0.0, 1.0), "renorm": "global"}),
        ("turn2.final_latent_channel_min0.3", 2, {"interval": (0.0, 1.0), "renorm": "channel", "least": 0.3}),
        ("turn2.final_latent_interval_0.4_1.0", 2, {"renorm": "text_channel"}),
        ("turn2.final_latent_num_timesteps_7", 2, {"points": 7, "interval": (0.0, 1.0), "renorm": "text_channel"}),
    ],
)
def test_variants_of_the_sampler_end_where_the_reference_does(pipeline, key, turn, settings):
    close(pipeline.draw(turn, **settings)[0][-1], pipeline.g[key])


def test_single_velocities_are_the_references(pipeline):
    g = golden("bagel/inference_velocity")
    for t in (0.2, 0.7, 1.0):
        x = g[f"x_t.t{t}"]
        for branch in ("turn1.full", "turn1.notext", "turn2.full", "turn2.notext", "turn2.noimage"):
            close(pipeline.velocity(branch, x, t), g[f"v.{branch}.t{t}"])
        v, v_text, v_image = (pipeline.velocity(f"turn2.{b}", x, t) for b in ("full", "notext", "noimage"))
        for renorm in ("global", "channel", "text_channel"):
            for least in (0.0, 0.3):
                settings = {"renorm": renorm, "least": least}
                name = f"{renorm}.min{least}.t{t}"
                close(guide(v, v_text, v_image, **settings), g[f"cfg.text_img.{name}"])
                close(guide(v, v_text, None, **settings), g[f"cfg.text_only.{name}"])


@torch.no_grad()
def test_an_edit_of_a_photo_is_the_references(bagel, meta, ids):
    """[photo, instruction] -> image, whose no-text context is the photo and whose no-image context the instruction."""
    g, model, vae = golden("bagel/inference_edit"), bagel.model, bagel.autoencoder
    photo = Resize(*meta["vae_transform"])(golden("bagel/transforms")["photo.uint8"])
    latent = vae.sample(*vae.encode(from_uint8(photo)[None]), eps=g["vae_eps"])
    patches, patch_grid = vit_patches(Resize(*meta["vit_transform"])(photo), 14)
    grid = vae.grid(*photo.shape[:2])
    full, no_image = model.new_cache(1, 96), model.new_cache(1, 96)
    model.prefill_image(full, [vae.tokens(latent)[0]], grid, [patches], patch_grid)
    photo_alone = full.mark()
    model.prefill_text(full, [ids["edit_text"]])
    model.prefill_text(no_image, [ids["edit_text"]])
    assert full.lengths.item() == g["key_values_lens"].item()
    x, times = g["init_noise"], bagel_grid(6, 3.0).tolist()
    for t, t_next in zip(times, times[1:]):
        v, v_text, v_image = (
            model.velocity(cache, x[None], torch.tensor([t]), grid, at=mark)[0]
            for cache, mark in ((full, None), (full, photo_alone), (no_image, None))
        )
        x = x - guide(v, v_text, v_image) * (t - t_next)
    close(x, g["final_latent"])
    assert _bytes_differ_rarely(to_uint8(vae.decode(vae.latent(x[None], grid)))[0], g["image_uint8"])


def _bytes_differ_rarely(image, reference) -> bool:
    off = (image.int() - reference.int()).abs()
    return off.max() <= 1 and (off > 0).float().mean() < 1e-3

"""Vision tower, autoencoder and image transforms against the reference."""

import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from irg_rl.model.autoencoder import Autoencoder, from_uint8, to_uint8
from irg_rl.model.config import VAEConfig
from irg_rl.model.latents import patchify, sincos_table, unpatchify
from irg_rl.model.transforms import Resize, from_pil, vit_patches
from tests.golden import golden
from tests.model.conftest import read_json
from tests.model.sizes import close


@torch.no_grad()
def test_vision_tower_over_two_packed_images_is_the_references(bagel):
    g, model = golden("bagel/vit"), bagel.model
    patches = torch.cat([patchify(g[f"img{i}.pixels"], 14) for i in (0, 1)])
    assert torch.equal(patches, g["packed_tokens"])
    lengths = g["cu_seqlens"].diff().tolist()
    features = model.vit_model.vision_model(patches, g["position_ids"], lengths)
    close(features, g["vit_features"])
    close(model.connector(features), g["connector_out"])
    close(model.vit_pos_embed(g["position_ids"]), g["pos_embed_added"])
    close(model.connector(features) + model.vit_pos_embed(g["position_ids"]), g["llm_input"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["img0", "img1"])
def test_autoencoder_is_the_references(bagel, name):
    g, vae = golden("bagel/vae"), bagel.autoencoder
    mean, logvar = vae.encode(from_uint8(g[f"{name}.uint8"])[None])
    close(mean, g[f"{name}.mean"])
    close(logvar, g[f"{name}.logvar"])
    latent = vae.sample(mean, logvar, eps=g[f"{name}.eps"])
    close(latent, g[f"{name}.latent"])
    close(vae.scale(mean), g[f"{name}.latent_mode"])
    close(vae.tokens(latent)[0], g[f"{name}.latent_tokens"])
    assert torch.equal(vae.latent(vae.tokens(latent), vae.grid(*g[f"{name}.uint8"].shape[:2])), latent)
    image = vae.decode(g[f"{name}.dec_latent"])
    close(image, g[f"{name}.dec_image"])
    assert torch.equal(to_uint8(g[f"{name}.dec_image"])[0], g[f"{name}.dec_uint8"])
    if name == "img0":
        close(vae.decode(latent), g["img0.reconstruction"])


@torch.no_grad()
def test_a_batch_of_padded_images_is_the_references(bagel):
    """Two images zero-padded to one size: how BAGEL trains, and why sizes are not mixed here."""
    g, vae = golden("bagel/vae"), bagel.autoencoder
    padded = torch.zeros(2, 3, 48, 64)
    padded[0, :, :32, :64] = g["img0.pixels"]
    padded[1, :, :48, :32] = g["img1.pixels"]
    mean, logvar = vae.encode(padded)
    close(vae.sample(mean, logvar, eps=g["padded.eps"]), g["padded.latent"])


@torch.no_grad()
def test_a_wider_autoencoder_built_from_a_formula_is_the_references(meta):
    g, params = golden("bagel/vae_wide"), meta["vae_wide"]["params"]
    config = VAEConfig(
        block_out_channels=tuple(params["ch"] * m for m in params["ch_mult"]),
        layers_per_block=params["num_res_blocks"],
        latent_channels=params["z_channels"],
    )
    vae = Autoencoder(config, latent_patch_size=2)
    weights = {name: _formula(name, tensor.shape) for name, tensor in vae.flux_state_dict().items()}
    for name, first in meta["vae_wide"]["weight_check"].items():
        assert weights[name].flatten()[:3].tolist() == first
    vae.load_flux_state_dict(weights, "formula")
    mean, logvar = vae.encode(g["pixels"][None])
    close(torch.cat([mean, logvar], dim=1), g["moments"])
    close(vae.sample(mean, logvar, eps=g["eps"]), g["latent"])
    close(vae.decode(g["dec_latent"]), g["dec_image"])


def _formula(name: str, shape: torch.Size) -> torch.Tensor:
    """The reference's hash-defined weights: uniform numbers scaled by the kind of parameter."""
    mask = 0xFFFFFFFF
    x = np.arange(shape.numel(), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) * 0x9E3779B9 & mask)
    x = x & np.uint64(mask)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) & np.uint64(mask)
    u = torch.from_numpy(x.astype(np.float64) / 2**31 - 1).view(shape)
    if len(shape) == 4:
        u = u * (3.63 / shape[1:].numel()) ** 0.5
    elif name.endswith("bias"):
        u = 0.25 * u
    else:
        u = 1 + 0.4 * u
    return u.float()


def test_resized_sizes_are_the_references():
    cases = read_json("transforms_sizes")
    checked = 0
    for name, rows in cases.items():
        rule, _, pixels = name.partition("_maxpixels")
        sides = [int(number) for number in re.findall(r"\d+", rule)]
        resize = Resize(*sides, max_pixels=int(pixels)) if pixels else Resize(*sides)
        for row in rows:
            assert resize.size(*row["in_wh"], row["img_num"]) == tuple(row["out_wh"]), (name, row)
            checked += 1
    assert checked > 100


def test_resized_bytes_are_the_references(meta):
    g = golden("bagel/transforms")
    vae, vit = Resize(*meta["vae_transform"]), Resize(*meta["vit_transform"])
    resized = vae(g["photo.uint8"])
    assert torch.equal(resized, g["vae.resized_uint8"])
    close(from_uint8(resized), g["vae.tensor"], 1e-6)
    assert torch.equal(vit(g["photo.uint8"]), g["vit.resized_uint8"])
    close(from_uint8(vit(g["photo.uint8"])), g["vit.tensor"], 1e-6)
    assert torch.equal(vit(resized), g["vit_after_vae_resize.resized_uint8"])
    assert torch.equal(from_pil(Image.fromarray(g["rgba.uint8"].numpy())), g["rgba.rgb_uint8"])


def test_an_image_of_the_right_size_is_left_alone():
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    assert Resize(max_side=32, min_side=32, stride=8)(image) is image


def test_patches_and_their_grid_come_row_by_row():
    image = torch.zeros(16, 24, 3, dtype=torch.uint8)
    image[8:, 8:16] = 255
    patches, grid = vit_patches(image, 8)
    assert grid == (2, 3)
    assert patches.mean(1).tolist() == [-1, -1, -1, -1, 1, -1]


def test_unpatchify_undoes_patchify():
    latent = torch.randn(2, 5, 6, 8)
    assert torch.equal(unpatchify(patchify(latent, 2), (3, 4), 2), latent)


def test_the_position_table_has_the_column_in_its_first_half():
    table = sincos_table(64, 3584)
    assert table[1, [0, 896, 1792, 2688]].tolist() == pytest.approx([0.841471, 0.540302, 0, 1], abs=1e-6)
    assert table[64, [0, 896, 1792, 2688]].tolist() == pytest.approx([0, 1, 0.841471, 0.540302], abs=1e-6)


def test_the_time_embedding_is_the_references(bagel):
    features = []
    hook = bagel.model.time_embedder.mlp[0].register_forward_hook(lambda _, inputs, out: features.append(inputs[0]))
    bagel.model.time_embedder(torch.tensor([0.5]))
    hook.remove()
    assert features[0][0, [0, 1, 128]].tolist() == pytest.approx([0.877583, 0.893692, 0.479426], abs=5e-6)

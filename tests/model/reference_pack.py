"""The reference's training batch, rebuilt with this program's own builder."""

from dataclasses import dataclass

import torch

from irg_rl.model.folder import Folder
from irg_rl.model.latents import patchify
from irg_rl.model.pack import Pack
from tests.golden import Golden, golden
from tests.model.conftest import read_json


@dataclass
class Reference:
    numbers: Golden
    plan: dict
    pack: Pack
    clean: torch.Tensor  # scaled latent tokens of all images


def clean_tokens(g: Golden) -> torch.Tensor:
    """The reference's latents, cut to each image's own size and into tokens."""
    parts = [
        patchify(latent[:, : 2 * h, : 2 * w], 2)
        for latent, (h, w) in zip(g["padded_latent"], g["patchified_vae_latent_shapes"].tolist())
    ]
    return torch.cat(parts)


def training_pack(bagel: Folder, one_row: bool) -> Reference:
    """The four packed samples as one row of four trees, or as four rows."""
    g, plan = golden("bagel/training"), read_json("training")
    ids = torch.zeros(sum(plan["split_lens"]), dtype=torch.long)
    ids[g["packed_text_indexes"]] = g["packed_text_ids"]
    texts, grids = iter(ids.split(plan["split_lens"])), iter(g["patchified_vae_latent_shapes"].tolist())
    vit_grids = iter([(2, 3), (2, 3), (3, 2), (2, 3)])
    clean = clean_tokens(g)
    times = g["timesteps_shifted"]
    x_t = (1 - times[:, None]) * clean + times[:, None] * g["noise"]
    latent, patch = 0, 0
    builder = bagel.model.pack_builder()
    for sample in plan["order"]:
        parent = None
        for item in plan["plans"][sample]:
            split = next(texts)
            if item["type"] == "text":
                parent = builder.add_text(split[1:-1], parent, loss=bool(item["loss"]))
            elif item["type"] == "vit_image":
                grid = next(vit_grids)
                size = grid[0] * grid[1]
                parent = builder.add_vit(g["packed_vit_tokens"][patch : patch + size], grid, parent)
                patch += size
            else:
                grid = tuple(next(grids))
                size = grid[0] * grid[1]
                tokens = x_t[latent : latent + size]
                if item["loss"]:
                    builder.add_noise(tokens, times[latent].item(), grid, parent)
                else:
                    parent = builder.add_clean(tokens, grid, parent)
                latent += size
        if not one_row:
            builder.new_row()
    return Reference(g, plan, builder.build(), clean)

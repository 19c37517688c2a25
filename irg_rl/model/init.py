"""Initial weights of a model that is trained from scratch."""

import math

import torch
from torch import nn

from irg_rl.model.pack import grid_ids
from irg_rl.model.unified import UnifiedModel

CONTENT = 0.3
"""Factor that makes the initial weights for image content smaller, so that content is small compared with the values of
the position table."""


@torch.no_grad()
def initialize(model: UnifiedModel, seed: int, grid: tuple[int, int], vit_grid: tuple[int, int]) -> UnifiedModel:
    """Set the initial weights of a model, and return the model.

    Weights are normal with standard deviation 1/sqrt(fan in), so every layer keeps the scale of its input. Matrices
    that write to the residual stream are divided by sqrt(2 * layers), as in GPT-2. Norm weights stay 1, and the
    position tables keep their values. The velocity head starts at 0, as in BAGEL. Biases start at 0, except in two
    layers (see the last paragraph).

    In each layer, the query matrix and the key matrix start with the same values (mimetic initialization, Trockman and
    Kolter 2023). Both experts start with the same two matrices. So at the start of training, tokens attend to similar
    tokens: a latent attends to the latent and the patch at its own position in the image. Without this, a base model
    took twice as many steps to use the picture that it should edit.

    `grid` and `vit_grid` are the grids (rows, columns) of latent tokens and ViT patches of the images in training.

    For a small grid, the sin-cos position table is nearly constant: the vectors of neighbours differ by a fiftieth of
    their energy. Image content of unit variance would hide this difference. Two steps prevent this. First, the weights
    for image content start small. Second, the biases of the two layers that embed latents and patches start at minus
    the mean of the table. This leaves only the *varying* part of the table. With these steps, the model learns sooner
    to attend between the same positions of two images.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = math.sqrt(2 * model.config.llm.num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features)
            if "o_proj" in name or "down_proj" in name:
                std /= depth
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            std = 1.0 if "embed_tokens" in name else 0.02
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * std)
    shared_by = model.config.llm.num_attention_heads // model.config.llm.num_key_value_heads
    for layer in model.language_model.model.blocks():
        attention = layer.self_attn
        key = attention.k_proj.weight
        attention.k_proj_moe_gen.weight.copy_(key)
        query = key.unflatten(0, (-1, model.config.llm.head_dim)).repeat_interleave(shared_by, dim=0).flatten(0, 1)
        attention.q_proj.weight.copy_(query)
        attention.q_proj_moe_gen.weight.copy_(query)
    model.llm2vae.weight.zero_()
    model.language_model.lm_head.weight.mul_(0.1)
    model.time_embedder.last.weight.mul_(CONTENT)
    for layer, table, cells in (
        (model.vae2llm, model.latent_pos_embed, grid),
        (model.connector.fc2, model.vit_pos_embed, vit_grid),
    ):
        layer.weight.mul_(CONTENT)
        ids = torch.from_numpy(grid_ids(cells, table.side))
        layer.bias.copy_(-table(ids).mean(0))
    return model

"""Weights of a model that starts from nothing."""

import math

import torch
from torch import nn

from irg_rl.model.unified import UnifiedModel


@torch.no_grad()
def initialize(model: UnifiedModel, seed: int) -> UnifiedModel:
    """Normal weights with standard deviation 1/sqrt(fan in), so every layer keeps the scale of its input; matrices that
    write to the residual stream are divided by sqrt(2 * layers) (GPT-2); biases 0; the velocity head starts at 0, as
    BAGEL's does. Both experts start independently. Norm weights keep their 1 and tables their sines.
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
    model.llm2vae.weight.zero_()
    model.language_model.lm_head.weight.mul_(0.1)
    return model

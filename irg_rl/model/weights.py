"""Checking a state dict before it is loaded, and the initial weights of a new model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from irg_rl.model.transformer import RMSNorm

_SHOWN = 5


def check_keys(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], source: str) -> None:
    """ValueError that names what is missing, unknown or of another shape."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{source} does not fit the configuration: {'; '.join(problems[:_SHOWN])}{more}")


@torch.no_grad()
def initialise(model: nn.Module, layers: int, generator: torch.Generator) -> None:
    """Initial weights: matrices ~ N(0, 1 / inputs), those that write into the residual stream divided by
    sqrt(2 layers); embeddings ~ N(0, 1); small logits; biases 0, norms 1, velocity head 0 (as BAGEL starts)."""
    for name, module in model.named_modules():
        match module:
            case nn.Linear():
                std = module.in_features**-0.5
                if name.endswith(("o_proj", "o_proj_moe_gen", "out_proj", "down_proj", "encoder.fc2")):
                    std *= (2 * layers) ** -0.5
                if name.endswith("lm_head"):
                    std *= 0.1
                if name.endswith("llm2vae"):
                    std = 0.0
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            case nn.Embedding():
                module.weight.normal_(0.0, 1.0, generator=generator)
            case nn.LayerNorm():
                module.reset_parameters()
            case RMSNorm():
                module.weight.fill_(1.0)

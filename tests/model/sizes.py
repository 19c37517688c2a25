"""Sizes of the models under test and the tolerance of the comparisons."""

import torch

from irg_rl.model.config import LLMConfig, ModelConfig, VAEConfig, ViTConfig
from irg_rl.model.pack import SpecialIds

SPECIAL = SpecialIds(bos=60, eos=61, soi=62, eoi=63)


def tiny_config(**llm) -> ModelConfig:
    """2 layers, 16 x 16 pixel images: 2 x 2 latent tokens and 2 x 2 patches."""
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=64,
    )  # fmt: skip
    return ModelConfig(
        llm=LLMConfig(**(sizes | llm)),
        vit=ViTConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, patch_size=8,
            max_patches_per_side=4,
        ),
        vae=VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4),
        latent_patch_size=2,
        max_latent_size=4,
    )  # fmt: skip


def bagel_7b() -> ModelConfig:
    return ModelConfig(
        llm=LLMConfig(
            hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
            intermediate_size=18944, vocab_size=152064,
        ),
        vit=ViTConfig(
            hidden_size=1152, num_hidden_layers=26, num_attention_heads=16, intermediate_size=4304, patch_size=14,
            max_patches_per_side=70,
        ),
        vae=VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16),
        latent_patch_size=2,
        max_latent_size=64,
    )  # fmt: skip


def close(value: torch.Tensor, reference: torch.Tensor, tolerance: float = 1e-4) -> None:
    """max |value - reference| <= tolerance * max |reference|."""
    assert value.shape == reference.shape, f"{tuple(value.shape)} is not {tuple(reference.shape)}"
    error = (value.detach().double() - reference.double()).abs().max().item()
    allowed = tolerance * reference.double().abs().max().item()
    assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"

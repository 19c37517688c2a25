"""A small random model with everything that sampling needs; hidden states are large enough that contexts matter."""

from dataclasses import dataclass

import pytest
import torch

import irg_rl.cluster  # noqa: F401 - before ray is imported anywhere: it keeps ray on the loopback
from irg_rl.config import NoiseRecipe, SamplingRecipe
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import LLMConfig, ModelConfig, VAEConfig, ViTConfig
from irg_rl.model.tokenizer import TextTokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.trajectory import Prompt
from rollouts.request import Request
from rollouts.sampler import Sampler

CORPUS = [
    "a photo of a red circle and a blue square",
    "a green triangle left of a yellow star",
    "there should be three circles",
    "the square is missing: add a blue square. nothing to change",
]

CONFIG = ModelConfig(
    llm=LLMConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=320,
        rope_theta=10_000.0,
    ),
    vit=ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        max_patches_per_side=8,
    ),
    vae=VAEConfig(block_out_channels=(8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4),
    latent_patch_size=2,
    max_latent_size=8,
)


PARTS = ("noise", "guidance", "is_stop", "record_steps")


@dataclass
class Kit:
    model: UnifiedModel
    vae: Autoencoder
    tokenizer: TextTokenizer

    def sampler(self, **changes) -> Sampler:
        """Settings of SamplingRecipe by name; those of PARTS go to the sampler."""
        parts = {name: changes.pop(name) for name in PARTS if name in changes}
        parts.setdefault("noise", NOISE)
        settings = {"max_text_tokens": 8, "points": 6, "turns": 3, "image_size": (32, 32)} | changes
        return Sampler(self.model, self.vae, self.tokenizer, SamplingRecipe(**settings), **parts)


NOISE = NoiseRecipe(window_size=2, window_range=(0, 5))


@pytest.fixture(scope="session")
def kit(tmp_path_factory) -> Kit:
    tokenizer = train_tokenizer(CORPUS, 300, tmp_path_factory.mktemp("tokenizer"))
    torch.manual_seed(0)
    model = UnifiedModel(CONFIG, tokenizer.special)
    with torch.no_grad():
        model.llm2vae.weight.mul_(2)
        model.language_model.lm_head.weight.mul_(4)
        # a component that all text tokens share makes eos likely enough to end some texts before the limit
        model.language_model.model.embed_tokens.weight[:, 0] += 3
        model.language_model.lm_head.weight[tokenizer.special.eos, 0] += 2
    return Kit(model, Autoencoder(CONFIG.vae, CONFIG.latent_patch_size), tokenizer)


def requests(count: int, seed: int = 0, **parts) -> list[Request]:
    """Requests over prompts of different lengths, in groups of two siblings."""
    texts = CORPUS[:3] + ["one star", "a photo of a red circle and a blue square and one more yellow star below it"]
    return [
        Request(Prompt(f"p{index // 2}", texts[index // 2 % len(texts)]), sample=index % 2, seed=seed, **parts)
        for index in range(count)
    ]

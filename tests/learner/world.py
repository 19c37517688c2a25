"""A tiny unified model and trajectories that the real sampler drew from it."""

import copy
from dataclasses import dataclass

import torch

from irg_rl.algorithms.base import Shared
from irg_rl.algorithms.grpo import GRPO, GRPOSettings
from irg_rl.config import NoiseRecipe, SamplingRecipe
from irg_rl.learner.policy import sampling_law
from irg_rl.learner.replay import Replay
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import LLMConfig, ModelConfig, VAEConfig, ViTConfig
from irg_rl.model.init import initialize
from irg_rl.model.tokenizer import TextTokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.trajectory import Prompt, SamplingLaw, Trajectory
from rollouts.request import Request
from rollouts.sampler import Sampler

CONFIG = ModelConfig(
    llm=LLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=320,
    ),
    vit=ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, patch_size=8,
        max_patches_per_side=4,
    ),
    vae=VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4),
    latent_patch_size=2,
    max_latent_size=4,
)  # fmt: skip

SAMPLING = SamplingRecipe(turns=3, history="last", max_text_tokens=6, points=6, image_size=(16, 16), temperature=0.9)
NOISE = NoiseRecipe(kind="flow_sde", noise_level=0.7, window="all")


def grpo(**settings) -> GRPO:
    """GRPO with these settings, its own or shared ones."""
    own = {name: value for name, value in settings.items() if name in GRPOSettings.model_fields}
    return GRPO(GRPOSettings(**own), Shared(**{name: value for name, value in settings.items() if name not in own}))


@dataclass
class TinyWorld:
    model: UnifiedModel
    vae: Autoencoder
    tokenizer: TextTokenizer

    def law(self, sampling: SamplingRecipe = SAMPLING, noise: NoiseRecipe | None = NOISE) -> SamplingLaw:
        return sampling_law(sampling, noise, "fp32")

    def replay(self, sampling: SamplingRecipe = SAMPLING, **changes) -> Replay:
        options = {"system_prompt": sampling.system_prompt, "max_pack_tokens": 4096} | changes
        return Replay(CONFIG, self.model.special, self.tokenizer.encode, **options)

    def sample(
        self,
        count: int = 3,
        sampling: SamplingRecipe = SAMPLING,
        noise: NoiseRecipe | None = NOISE,
        record_steps: bool = True,
        **request,
    ) -> list[Trajectory]:
        """Trajectories with advantages +1, -.5, ... that differ by segment."""
        sampler = Sampler(
            self.model, self.vae, self.tokenizer, sampling, noise=noise, record_steps=record_steps
        )
        prompt = Prompt("p0", "a red circle above a blue square")
        drawn = sampler.sample([Request(prompt, sample=i, seed=5, **request) for i in range(count)])
        for index, trajectory in enumerate(drawn):
            for place, segment in enumerate(trajectory.segments):
                segment.advantage = (1.0 if index % 2 == 0 else -0.5) * (1 + 0.25 * place)
        return drawn

    def copy(self) -> UnifiedModel:
        return copy.deepcopy(self.model)


def make_world(folder) -> TinyWorld:
    torch.manual_seed(0)
    corpus = ["a red circle above a blue square", "nothing to change", "the square is missing"] * 3
    tokenizer = train_tokenizer(corpus, 290, folder)
    model = initialize(UnifiedModel(CONFIG, tokenizer.special), 0, (2, 2), (2, 2))
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.language_model.lm_head.weight[tokenizer.special.eos, 0] = 4.0  # some texts end by themselves
    return TinyWorld(model.eval(), Autoencoder(CONFIG.vae, CONFIG.latent_patch_size).eval(), tokenizer)

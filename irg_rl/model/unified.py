"""The unified model: text, ViT patches and latent tokens in one transformer. Its state dict has the same names as
BAGEL's."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from irg_rl.model.attention import Backend, ContextGrad, PackedAttention
from irg_rl.model.branched import BranchedAttention
from irg_rl.model.config import ModelConfig
from irg_rl.model.incremental import Incremental
from irg_rl.model.latents import PositionTable, TimeEmbedder
from irg_rl.model.pack import Pack, SpecialIds
from irg_rl.model.transformer import Attend, Keep, LanguageModel
from irg_rl.model.vision import Connector, VisionModel


@dataclass
class ModelOutput:
    """The outputs of the model for one pack (a batch of token sequences). `logits` has one vector for each text token
    listed in `pack.logit_index`. `velocity` has one fp32 vector for each latent token listed in `pack.velocity_index`.
    If the caller asks for `hidden`, it has the hidden states [N, H] of all N tokens after the final norms: text tokens
    first, then image patches, then latent tokens. Otherwise, `hidden` is None."""

    logits: Tensor
    velocity: Tensor
    hidden: Tensor | None = None


class UnifiedModel(Incremental, nn.Module):
    """The unified model of text and images. `model(pack)` computes the outputs for a pack (a batch of token sequences).
    Training uses this call. The learner also uses this call to compute the log-probabilities of sampled answers again.
    Decoding with a cache runs the same `trunk`, but with another attention function."""

    def __init__(self, config: ModelConfig, special: SpecialIds, attention: Backend = Backend.AUTO) -> None:
        super().__init__()
        self.config = config
        self.special = special
        self.attention = attention
        hidden = config.llm.hidden_size
        self.language_model = LanguageModel(config.llm)
        self.vit_model = VisionModel(config.vit)
        self.connector = Connector(config.vit.hidden_size, hidden)
        self.vit_pos_embed = PositionTable(config.vit.max_patches_per_side, hidden)
        self.time_embedder = TimeEmbedder(hidden)
        self.vae2llm = nn.Linear(config.latent_dim, hidden)
        self.llm2vae = nn.Linear(hidden, config.latent_dim)
        self.latent_pos_embed = PositionTable(config.max_latent_size, hidden)

    def forward(
        self, pack: Pack, *, context_grad: ContextGrad | str = ContextGrad.FULL, hidden: bool = False
    ) -> ModelOutput:
        backend = self.attention.in_packs(pack.slot.device, self.config.llm.head_dim)
        branched = bool(pack.views) and backend is Backend.SDPA  # FLEX itself skips masked blocks
        attend = BranchedAttention(pack, context_grad) if branched else PackedAttention(pack, backend, context_grad)
        wanted = (pack.logit_index, pack.velocity_index)
        und, gen = self.trunk(pack, attend, None if hidden else wanted)
        states = None
        if hidden:
            states = und if gen is None else torch.cat([und, gen])
            und, gen = und.index_select(0, wanted[0]), None if gen is None else gen.index_select(0, wanted[1])
        logits = self.language_model.lm_head(und)
        if gen is None:
            velocity = und.new_zeros(0, self.config.latent_dim, dtype=torch.float32)
        else:
            velocity = self.llm2vae(gen).float()
        if pack.touch_all:
            nothing = 0.0 * (logits.sum().float() + velocity.sum())
            logits, velocity = logits + nothing.to(logits.dtype), velocity + nothing
        return ModelOutput(logits, velocity, states)

    def recompute_activations(self, on: bool = True) -> None:
        """Turn activation checkpointing on or off. If it is on, the forward pass stores only the input of each layer,
        and the backward pass runs the layer again."""
        self.language_model.model.recompute = on

    def trunk(self, pack: Pack, attend: Attend, keep: Keep | None) -> tuple[Tensor, Tensor | None]:
        """Run the transformer layers on a pack (a batch of token sequences). Return the hidden states of its tokens
        after the final norms, as two tensors (und, gen): `und` for text tokens and image patches, `gen` for image
        latents. `attend` computes the attention. `keep` has the indices of the tokens to return; None means all tokens.
        `gen` is None if the pack has no latent tokens."""
        und = self.language_model.model.embed_tokens(pack.text_ids)
        if len(pack.patches) or pack.touch_all:
            und = torch.cat([und, self._see(pack)])
        gen = self._embed_latents(pack) if len(pack.latents) or pack.touch_all else None
        return self.language_model.model(und, gen, pack.positions, attend, keep)

    def _see(self, pack: Pack) -> Float[Tensor, "P H"]:
        patches = pack.patches if len(pack.patches) else pack.patches.new_zeros(0, self.config.vit.patch_dim)
        features = self.vit_model.vision_model(patches, pack.patch_position_ids, pack.patch_lengths)
        seen = self.connector(features)
        return seen + self.vit_pos_embed(pack.patch_position_ids).to(seen.dtype)

    def _embed_latents(self, pack: Pack) -> Float[Tensor, "G H"]:
        latents = pack.latents if len(pack.latents) else pack.latents.new_zeros(0, self.config.latent_dim)
        tokens = self.vae2llm(latents.to(self.vae2llm.weight.dtype))
        place = self.latent_pos_embed(pack.latent_position_ids).to(tokens.dtype)
        return tokens + place + self.time_embedder(pack.times).index_select(0, pack.image)

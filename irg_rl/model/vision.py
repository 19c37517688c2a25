"""The SigLIP vision tower, and the connector from the tower to the language model. The tower processes the patches of
several images in one sequence.

Letters: P patches of all images, I images, C width of the tower.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from irg_rl.model.config import ViTConfig


class _VisionAttention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = (config.num_attention_heads, width // config.num_attention_heads)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "P C"], images: "_Images") -> Float[Tensor, "P C"]:
        q, k, v = (images.pad(proj(x)).unflatten(-1, self.heads).transpose(1, 2)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=images.mask)
        return self.out_proj(images.unpad(mixed.transpose(1, 2).flatten(2)))


class _Images:
    """Converts patches of all images in one sequence [P, C] to a padded batch [I, longest, C] and back. `mask` hides
    the padding. If all images have the same size, nothing is copied and there is no mask."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        self._shape = (len(lengths), max(lengths, default=0))
        self._index: Tensor | None = None
        self.mask: Tensor | None = None
        if len(set(lengths)) > 1:
            sizes = torch.tensor(lengths, device=device)
            real = torch.arange(self._shape[1], device=device) < sizes[:, None]
            self._index = real.flatten().nonzero()[:, 0]
            self.mask = real[:, None, None, :]

    def pad(self, x: Tensor) -> Tensor:
        if self._index is not None:
            x = x.new_zeros(self._shape[0] * self._shape[1], x.shape[1]).index_copy(0, self._index, x)
        return x.view(*self._shape, x.shape[1])

    def unpad(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        return flat if self._index is None else flat.index_select(0, self._index)


class _MLP(nn.Module):
    def __init__(self, width: int, inner: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, out or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _VisionLayer(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.self_attn = _VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, images: _Images) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), images)
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_patches_per_side**2, config.hidden_size)


class _Encoder(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_VisionLayer(config) for _ in range(config.num_hidden_layers))


class VisionTransformer(nn.Module):
    """Pre-norm transformer with learned positions. A patch sees only the patches of its own image."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, patches: Float[Tensor, "P patch"], position_ids: Int[Tensor, "P"], lengths: list[int]
    ) -> Float[Tensor, "P C"]:
        embed = self.embeddings
        x = embed.patch_embedding(patches.to(embed.patch_embedding.weight.dtype))
        x = x + embed.position_embedding(position_ids)
        images = _Images(lengths, x.device)
        for layer in self.encoder.layers:
            x = layer(x, images)
        return self.post_layernorm(x)


class VisionModel(nn.Module):
    """A wrapper around the vision tower. The tower is the attribute `vision_model`. So the names of its weights begin
    with `vision_model.`, as in checkpoints."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)


class Connector(_MLP):
    """Maps features of the vision tower to the hidden size of the language model."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, hidden)

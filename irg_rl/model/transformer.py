"""The language model. It consists of Qwen2 layers. Almost every weight exists twice, once for each of two experts (a
mixture of transformers). The und expert processes text and ViT patches, and the gen expert processes image latents.

The hidden states are two tensors, (und, gen), here called streams. So each expert is applied only to its own tokens,
and no padding is needed. Only attention joins the streams. The function `attend(layer, q, k, v)` gets all tokens, und
tokens first, and decides which tokens see each other (attention.py). Training on packs and decoding with a cache use
the same layers, but different functions `attend`.

Letters: N tokens, U und tokens, G gen tokens, h query heads, k key/value heads, d numbers per head, H hidden size.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from irg_rl.model.config import LLMConfig
from irg_rl.model.fused import Rotate, rms_norm

Rope = tuple[Tensor, Tensor]
"""The cosines and the sines of the rotary angles of every token."""
Keep = tuple[Tensor, Tensor]
"""Says for which tokens a result is needed: (indices among the tokens of the und expert, indices among those of the gen
expert)."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """RMS norm: x / rms(x) in fp32, cast back to the type of x, then multiplied by a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*n size"]) -> Float[Tensor, "*n size"]:
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(nn.Module):
    """The feed-forward part of a layer: down(silu(gate x) * up x), without biases."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """The weights of attention for both experts: projections, and norms for queries and keys. Each expert has its own
    weights, but one softmax covers the tokens of both experts."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    q_norm: RMSNorm
    k_norm: RMSNorm
    q_proj_moe_gen: nn.Linear
    k_proj_moe_gen: nn.Linear
    v_proj_moe_gen: nn.Linear
    o_proj_moe_gen: nn.Linear
    q_norm_moe_gen: RMSNorm
    k_norm_moe_gen: RMSNorm

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        hidden, d = config.hidden_size, config.head_dim
        self._heads = (config.num_attention_heads, d)
        self._shared_heads = (config.num_key_value_heads, d)
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", nn.Linear(hidden, hidden))
            self.add_module(f"k_proj{suffix}", nn.Linear(hidden, config.num_key_value_heads * d))
            self.add_module(f"v_proj{suffix}", nn.Linear(hidden, config.num_key_value_heads * d))
            self.add_module(f"o_proj{suffix}", nn.Linear(hidden, hidden, bias=False))
            self.add_module(f"q_norm{suffix}", RMSNorm(d, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RMSNorm(d, config.rms_norm_eps))

    def qkv(self, und: Tensor, gen: Tensor | None, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries [N, h, d], the keys [N, k, d] and the values [N, k, d] of all N tokens. Here h is the
        number of query heads, k the number of key/value heads, and d the size of a head. `und` has the hidden states of
        the tokens of the und expert (text and image patches). `gen` has the hidden states of the tokens of the gen
        expert (image latents). It is None if the gen expert has no tokens. In the results the und tokens come first.
        Queries and keys are normed and then rotated by the rotary position embedding."""
        q = self.q_norm(self.q_proj(und).unflatten(-1, self._heads))
        k = self.k_norm(self.k_proj(und).unflatten(-1, self._shared_heads))
        v = self.v_proj(und).unflatten(-1, self._shared_heads)
        if gen is not None:
            q = torch.cat([q, self.q_norm_moe_gen(self.q_proj_moe_gen(gen).unflatten(-1, self._heads))])
            k = torch.cat([k, self.k_norm_moe_gen(self.k_proj_moe_gen(gen).unflatten(-1, self._shared_heads))])
            v = torch.cat([v, self.v_proj_moe_gen(gen).unflatten(-1, self._shared_heads)])
        return Rotate.apply(q, *rope), Rotate.apply(k, *rope), v


class Layer(nn.Module):
    """One pre-norm transformer layer with two experts."""

    mlp: SwiGLU
    input_layernorm: RMSNorm
    post_attention_layernorm: RMSNorm
    mlp_moe_gen: SwiGLU
    input_layernorm_moe_gen: RMSNorm
    post_attention_layernorm_moe_gen: RMSNorm

    def __init__(self, config: LLMConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = Attention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module(f"mlp{suffix}", SwiGLU(config.hidden_size, config.intermediate_size))
            self.add_module(f"input_layernorm{suffix}", RMSNorm(config.hidden_size, config.rms_norm_eps))
            self.add_module(f"post_attention_layernorm{suffix}", RMSNorm(config.hidden_size, config.rms_norm_eps))

    def forward(
        self, und: Tensor, gen: Tensor | None, rope: Rope, attend: Attend, keep: Keep | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer on the hidden states `und` and `gen`. Return the hidden states after the layer as (und, gen).
        The und expert has the tokens of text and image patches, and the gen expert has image latents. `gen` is None if
        there are no image latents. `rope` has the cosines and sines of the rotary angles. `attend` is the function that
        computes the attention. If `keep` = (und indices, gen indices) is given, return only these tokens. This saves
        work in the last layer, where the other tokens are not needed."""
        attention = self.self_attn
        gen_in = None if gen is None else self.input_layernorm_moe_gen(gen)
        mixed = attend(self.index, *attention.qkv(self.input_layernorm(und), gen_in, rope))
        mixed_und, mixed_gen = mixed[: und.shape[0]], mixed[und.shape[0] :]
        if keep is not None:
            und, mixed_und = und.index_select(0, keep[0]), mixed_und.index_select(0, keep[0])
        und = und + attention.o_proj(mixed_und)
        und = und + self.mlp(self.post_attention_layernorm(und))
        if gen is None:
            return und, None
        if keep is not None:
            gen, mixed_gen = gen.index_select(0, keep[1]), mixed_gen.index_select(0, keep[1])
        gen = gen + attention.o_proj_moe_gen(mixed_gen)
        gen = gen + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen))
        return und, gen


class Trunk(nn.Module):
    """The transformer without its output head: the token embedding, all layers, and the final norm of each expert. The
    inputs of `forward` are already embedded, so `forward` uses only the layers and the norms."""

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.recompute = False
        """Whether to use activation checkpointing: only the input of each layer is stored, and the backward pass runs
        the layer again."""

    def forward(
        self,
        und: Float[Tensor, "U H"],
        gen: Float[Tensor, "G H"] | None,
        positions: Int[Tensor, "N"],
        attend: Attend,
        keep: Keep | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run all layers and the final norms on the embedded tokens `und` (text and image patches) and `gen` (image
        latents). Return the final hidden states as (und, gen). `gen` is None if there are no image latents. `positions`
        has the rope position of every token, und tokens first. `attend` is the function that computes the attention. If
        `keep` = (und indices, gen indices) is given, return only these tokens."""
        rope = rope_table(positions, self.config, und.dtype)
        *lower, last = self.blocks()
        for layer in lower:
            und, gen = self._run(layer, und, gen, rope, attend)
        und, gen = self._run(last, und, gen, rope, attend, keep)
        return self.norm(und), None if gen is None else self.norm_moe_gen(gen)

    def blocks(self) -> list[Layer]:
        """Return the layers, from the first to the last."""
        return [cast(Layer, layer) for layer in self.layers]

    def _run(self, layer: Layer, *inputs) -> tuple[Tensor, Tensor | None]:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return layer(*inputs)


class LanguageModel(nn.Module):
    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


def rope_table(positions: Int[Tensor, "N"], config: LLMConfig, dtype: torch.dtype) -> Rope:
    """Return the tensors cos and sin of the rotary angles, each [N, 1, d/2]. The angles are position * theta^(-2k/d),
    where k goes from 0 to d/2 - 1. Both tensors are computed in fp32 and then converted to `dtype`."""
    d = config.head_dim
    exponent = torch.arange(0, d, 2, dtype=torch.float32, device=positions.device) / d
    angle = positions[:, None].float() * (1.0 / config.rope_theta**exponent)
    return angle.cos()[:, None].to(dtype), angle.sin()[:, None].to(dtype)

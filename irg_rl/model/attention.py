"""Who attends to whom: the joint softmax over a pack.

Streams are moved to padded rows, attended under the pack's visibility and moved back. Both moves are gathers in both
directions of autograd, which is much cheaper than scatter-adds on a CPU.

Letters: N tokens, B rows, L tokens of the longest row, h query heads, k key/value heads, d numbers per head.
"""

from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from irg_rl.model.layout import Visibility
from irg_rl.model.pack import Pack


class Backend(StrEnum):
    SDPA = "sdpa"
    FLEX = "flex"


class ContextGrad(StrEnum):
    """Whether a noise block's loss reaches the weights through what it sees outside itself."""

    FULL = "full"
    DETACHED = "detached"


class _Move(torch.autograd.Function):
    """x[forward_index], whose gradient is grad[backward_index].

    Exact when the two indices are inverse to each other on the real tokens. Padding takes the value of token 0; its
    queries see padding alone and its gradient is never read.
    """

    @staticmethod
    def forward(ctx, x: Tensor, forward_index: Tensor, backward_index: Tensor) -> Tensor:
        ctx.save_for_backward(backward_index)
        return x.index_select(0, forward_index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (backward_index,) = ctx.saved_tensors
        return grad.index_select(0, backward_index), None, None


class PackedAttention:
    """Attention inside the rows of one pack; `__call__` is the transformer's `attend`."""

    def __init__(
        self, pack: Pack, backend: Backend = Backend.SDPA, context_grad: ContextGrad | str = ContextGrad.FULL
    ) -> None:
        detached = ContextGrad(context_grad) is ContextGrad.DETACHED
        self._pack = pack
        self._backend = backend
        if backend is Backend.FLEX:
            self._mask = _block_mask(pack.visibility)
        else:
            self._mask = pack.visibility.dense()[:, None]
        self._noise = pack.visibility.in_noise()[:, None, :, None] if detached else None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N hd"]:
        pack = self._pack
        heads = (q.shape[1], k.shape[1], v.shape[1])
        padded = _Move.apply(torch.cat([q, k, v], dim=1), pack.unslot, pack.slot)
        q, k, v = padded.unflatten(0, (pack.rows, -1)).transpose(1, 2).split(heads, dim=1)
        mixed = self._attend(q, k, v)
        if self._noise is not None:
            own_only = self._attend(q, _stop(k, ~self._noise), _stop(v, ~self._noise))
            mixed = torch.where(self._noise, own_only, mixed)
        return _Move.apply(mixed.transpose(1, 2).flatten(2).flatten(0, 1), pack.slot, pack.unslot)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._backend is Backend.FLEX:
            return _flex()[0](q, k, v, block_mask=self._mask, enable_gqa=True)
        return grouped_attention(q, k, v, self._mask)


def grouped_attention(
    q: Float[Tensor, "B h T d"], k: Float[Tensor, "B k S d"], v: Float[Tensor, "B k S d"], mask: Bool[Tensor, "B 1 T S"]
) -> Float[Tensor, "B h T d"]:
    """softmax(q k / sqrt(d)) v under a mask; key/value head j serves query heads j * h/k and following."""
    shared = q.shape[1] // k.shape[1]
    if (
        q.is_cuda and shared > 1
    ):  # the memory-efficient kernel knows masks but no shared heads; without it, T x S scores
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _stop(x: Tensor, where: Bool[Tensor, "B 1 L 1"]) -> Tensor:
    return torch.where(where, x.detach(), x)


def _block_mask(visibility: Visibility):
    block, ancestors, causal = visibility.block, visibility.ancestors, visibility.causal

    def visible(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = block[b, query], block[b, key]
        return ancestors[b, own, other] & ~((own == other) & causal[b, own] & (key > query))

    batch, length = block.shape
    return _flex()[1](visible, batch, None, length, length, device=block.device)


@cache
def _flex():
    """FlexAttention's kernel and its mask maker: compiled where there is CUDA, plain (and slow, without gradients) on a
    CPU. Imported late: they bring PyTorch's compiler along, seconds that every other process is spared."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not torch.cuda.is_available():
        return flex_attention, create_block_mask
    return torch.compile(flex_attention, dynamic=True), torch.compile(create_block_mask, dynamic=True)

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


class Move(torch.autograd.Function):
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
    """Attention inside the rows of one pack; `__call__` is the transformer's `attend`.

    The cost of a padded row grows with the square of its length, so SDPA gets rows of similar length together.
    """

    def __init__(
        self, pack: Pack, backend: Backend = Backend.SDPA, context_grad: ContextGrad | str = ContextGrad.FULL
    ) -> None:
        self._backend = backend
        detached = ContextGrad(context_grad) is ContextGrad.DETACHED
        padded = pack.unslot.unflatten(0, (pack.rows, -1))
        begin = torch.empty(pack.rows, dtype=torch.long, device=padded.device)  # where a row begins, padded
        places, self._batches, self._masks, self._noise = [], [], [], []
        for chosen in [range(pack.rows)] if backend is Backend.FLEX else similar(pack.lengths):
            length, rows = max(pack.lengths[row] for row in chosen), torch.tensor(chosen, device=padded.device)
            begin[rows] = sum(map(len, places)) + length * torch.arange(len(chosen), device=padded.device)
            places.append(padded[rows, :length].flatten())
            visibility = pack.visibility.take(rows, length)
            self._batches.append(len(chosen))
            self._masks.append(_block_mask(visibility) if backend is Backend.FLEX else additive(visibility.dense()))
            self._noise.append(visibility.in_noise()[:, None, :, None] if detached else None)
        self._sizes = list(map(len, places))
        self._unslot = torch.cat(places)
        self._slot = begin[pack.slot // padded.shape[1]] + pack.slot % padded.shape[1]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N hd"]:
        heads = (q.shape[1], k.shape[1], v.shape[1])
        padded = Move.apply(torch.cat([q, k, v], dim=1), self._unslot, self._slot)
        mixed = []
        for part, rows, mask, noise in zip(padded.split(self._sizes), self._batches, self._masks, self._noise):
            q, k, v = part.unflatten(0, (rows, -1)).transpose(1, 2).split(heads, dim=1)
            seen = self._attend(q, k, v, mask)
            if noise is not None:
                seen = torch.where(noise, self._attend(q, stop(k, ~noise), stop(v, ~noise), mask), seen)
            mixed.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        return Move.apply(torch.cat(mixed), self._slot, self._unslot)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask) -> Tensor:
        if self._backend is Backend.FLEX:
            return _flex()[0](q, k, v, block_mask=mask, enable_gqa=True)
        return grouped_attention(q, k, v, mask.to(q.dtype))


SIMILAR = 0.75
"""Length of the shortest row of a batch, as a share of the longest."""


def similar(lengths: list[int]) -> list[list[int]]:
    """Indices of the rows in batches of similar length, the longest first."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or lengths[row] < SIMILAR * lengths[batches[-1][0]]:
            batches.append([])
        batches[-1].append(row)
    return batches


def grouped_attention(
    q: Float[Tensor, "B h T d"], k: Float[Tensor, "B k S d"], v: Float[Tensor, "B k S d"], mask: Tensor
) -> Float[Tensor, "B h T d"]:
    """softmax(q k / sqrt(d)) v under a mask [B, 1, T, S], boolean or additive; key/value head j serves query heads
    j * h/k and following."""
    shared = q.shape[1] // k.shape[1]
    if (
        q.is_cuda and shared > 1
    ):  # the memory-efficient kernel knows masks but no shared heads; without it, T x S scores
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def additive(visible: Bool[Tensor, "B Q K"]) -> Float[Tensor, "B 1 Q K"]:
    """0 where a token is seen, -inf elsewhere: what SDPA would make of a boolean mask anew in every layer."""
    mask = visible[:, None]
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))


def stop(x: Tensor, where: Bool[Tensor, "B 1 L 1"]) -> Tensor:
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

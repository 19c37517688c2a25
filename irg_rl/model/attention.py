"""Attention inside a pack (several token sequences, called rows, in one forward pass). One softmax covers the text and
the image tokens together.

The model stores the tokens of a pack in two lists. The first has the text tokens and image patches, the second has the
image latents. This module first copies both lists into rows, and pads the rows to one length. Attention is computed on
these rows, under a mask that says which tokens see each other. Then the result is copied back. Both copies are gathers,
also in the backward pass: on a CPU a gather is much cheaper than a scatter-add.

Letters: N tokens, B rows, L tokens of the longest row, h query heads, k key/value heads, d numbers per head.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import wrap_torch_function

from irg_rl.errors import InputError
from irg_rl.model.layout import Visibility
from irg_rl.model.pack import Pack


class Backend(StrEnum):
    """The kernel that computes attention. It is chosen separately for packs (training: several sequences in one forward
    pass) and for cached contexts (sampling: new tokens see keys and values in a cache).

    |       | packs                              | cached contexts                                     |
    |-------|------------------------------------|-----------------------------------------------------|
    | auto  | FLEX on a GPU, otherwise SDPA      | FLASH on a GPU in bf16 if installed, otherwise SDPA |
    | sdpa  | SDPA under a dense mask            | SDPA                                                |
    | flex  | FlexAttention with a block mask    | SDPA                                                |
    | flash | FlexAttention with a block mask    | flash-attn's kernel for rows of different lengths   |

    With cached contexts, SDPA is always used in two cases. In the first case, a step adds a single token to each
    context. In the second case, an image is added to the context, as two blocks in one row: its latents and its
    patches.
    """

    AUTO = "auto"
    SDPA = "sdpa"
    FLEX = "flex"
    FLASH = "flash"

    def in_packs(self, device: torch.device, head: int) -> "Backend":
        """Return the kernel that computes attention in training: SDPA or FLEX. (In training, a pack has several
        sequences in one forward pass.) `head` is the number of dimensions of one head. FlexAttention's GPU kernels need
        at least 16."""
        if self is Backend.AUTO:
            return Backend.FLEX if device.type == "cuda" and head >= FLEX_HEAD else Backend.SDPA
        return Backend.SDPA if self is Backend.SDPA else Backend.FLEX

    def in_caches(self, device: torch.device, dtype: torch.dtype) -> "Backend":
        """Return the kernel that computes attention in sampling: SDPA or FLASH. (In sampling, new tokens see keys and
        values in a cache.)"""
        if self is Backend.AUTO:
            able = device.type == "cuda" and dtype == torch.bfloat16 and flash_kernel() is not None
            return Backend.FLASH if able else Backend.SDPA
        return Backend.FLASH if self is Backend.FLASH else Backend.SDPA

    def require(self, device: torch.device, dtype: torch.dtype) -> None:
        """Raise InputError in three cases: the chosen kernel cannot run on this device, it does not support this number
        type, or it needs a package that is not installed."""
        if self in (Backend.FLEX, Backend.FLASH) and device.type != "cuda":
            raise InputError(f"attention {self} needs a GPU, and the model is on {device}: choose auto or sdpa")
        if self is Backend.FLASH and dtype != torch.bfloat16:
            raise InputError(f"attention flash computes in bf16, not in {dtype}: choose auto, flex or sdpa")
        self.require_kernels()

    def require_kernels(self) -> None:
        """Raise InputError if the chosen kernel needs a package that is not installed."""
        if self is Backend.FLASH and flash_kernel() is None:
            raise InputError("attention flash needs the package flash-attn: pip install 'irg-rl[gpu]', or choose auto")


FLEX_HEAD = 16


@cache
def flash_kernel() -> Callable[..., Tensor] | None:
    """Return flash-attn's function for attention over sequences of different lengths. Return None if flash-attn is not
    installed or was not built for this PyTorch."""
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports] - optional
    except ImportError:
        return None
    return flash_attn_varlen_func


class ContextGrad(StrEnum):
    """Says whether the loss of a noise block (the tokens of a noisy image) also gives gradients to the context that the
    block sees. FULL: it does, through the keys and values of the context. DETACHED: it does not."""

    FULL = "full"
    DETACHED = "detached"


class Move(torch.autograd.Function):
    """Copies tokens to other positions: the forward pass returns x[forward_index], and the backward pass returns
    grad[backward_index].

    This gradient is exact if `backward_index` is the inverse of `forward_index` on the real tokens. Positions of
    padding get a copy of token 0. This does no harm: queries in the padding see only padding, and the gradient of
    padding is never read.
    """

    @staticmethod
    def forward(ctx, x: Tensor, forward_index: Tensor, backward_index: Tensor) -> Tensor:
        ctx.save_for_backward(backward_index)
        return x.index_select(0, forward_index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (backward_index,) = ctx.saved_tensors
        return grads[0].index_select(0, backward_index), None, None


class PackedAttention:
    """Attention inside the rows (token sequences) of one pack, with SDPA or FLEX. The transformer calls it as its
    `attend` function.

    The cost of a padded row grows with the square of its length. Therefore SDPA gets batches of rows with similar
    lengths.
    """

    def __init__(
        self, pack: Pack, backend: Backend = Backend.SDPA, context_grad: ContextGrad | str = ContextGrad.FULL
    ) -> None:
        self._backend = backend
        detached = ContextGrad(context_grad) is ContextGrad.DETACHED
        padded = pack.unslot.unflatten(0, (pack.rows, -1))
        begin = torch.empty(pack.rows, dtype=torch.long, device=padded.device)  # start of each padded row
        places, self._batches, self._masks, self._noise = [], [], [], []
        for chosen in [range(pack.rows)] if backend is Backend.FLEX else similar(pack.lengths):
            length, rows = max(pack.lengths[row] for row in chosen), torch.tensor(chosen, device=padded.device)
            begin[rows] = sum(map(len, places)) + length * torch.arange(len(chosen), device=padded.device)
            places.append(padded[rows, :length].flatten())
            visibility = pack.visibility.take(rows, length)
            self._batches.append(len(chosen))
            self._masks.append(block_mask(visibility) if backend is Backend.FLEX else additive(visibility.dense()))
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
            return flex_attention(q, k, v, mask)
        return grouped_attention(q, k, v, mask.to(q.dtype))


SIMILAR = 0.75
"""Rows (token sequences) are batched by length: the shortest row of a batch has at least this share of the length of
the longest row."""


def similar(lengths: list[int]) -> list[list[int]]:
    """Group the rows (token sequences) of a pack into batches of similar length. `lengths` has the length of each row.
    Return the row indices of each batch, the batch with the longest rows first."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or lengths[row] < SIMILAR * lengths[batches[-1][0]]:
            batches.append([])
        batches[-1].append(row)
    return batches


def grouped_attention(
    q: Float[Tensor, "B h T d"], k: Float[Tensor, "B k S d"], v: Float[Tensor, "B k S d"], mask: Tensor
) -> Float[Tensor, "B h T d"]:
    """Return softmax(q k / sqrt(d)) v under a mask [B, 1, T, S], which is boolean or additive.

    There are h query heads and k key/value heads. Neighbouring query heads share a key/value head: the query heads j *
    h/k to (j + 1) * h/k - 1 use key/value head j.
    """
    shared = q.shape[1] // k.shape[1]
    if (
        q.is_cuda and shared > 1
    ):  # only the memory-efficient kernel avoids storing T x S scores; it takes masks but no shared heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def additive(visible: Bool[Tensor, "B Q K"]) -> Float[Tensor, "B 1 Q K"]:
    """Return an additive mask: 0 where a query may see a key, -inf elsewhere. It is computed once for all layers. With
    a boolean mask, SDPA would do this conversion again in every layer."""
    mask = visible[:, None]
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))


def stop(x: Tensor, where: Bool[Tensor, "B 1 L 1"]) -> Tensor:
    return torch.where(where, x.detach(), x)


@wrap_torch_function(lambda visibility: (visibility.block,))
def block_mask(visibility: Visibility):
    """Return the mask that FlexAttention needs for a batch of rows (token sequences). For each block of 128 x 128
    (query, key) pairs, the mask says whether all, some or none of the pairs are visible.

    `block_mask` and `flex_attention` are separate functions, because footprint.py replaces them when it counts memory.
    """
    block, ancestors, causal = visibility.block, visibility.ancestors, visibility.causal

    def visible(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = block[b, query], block[b, key]
        return ancestors[b, own, other] & ~((own == other) & causal[b, own] & (key > query))

    batch, length = block.shape
    return _flex()[1](visible, batch, None, length, length, device=block.device)


@wrap_torch_function(lambda q, k, v, mask: (q, k, v))
def flex_attention(
    q: Float[Tensor, "B h L d"], k: Float[Tensor, "B k L d"], v: Float[Tensor, "B k L d"], mask
) -> Float[Tensor, "B h L d"]:
    """Return softmax(q k / sqrt(d)) v, computed with FlexAttention. `mask` is the result of `block_mask`; it says which
    keys a query sees. There are h query heads and k key/value heads, as in `grouped_attention`."""
    return _flex()[0](q, k, v, block_mask=mask, enable_gqa=True)


@cache
def _flex():
    """Return FlexAttention's attention function and the function that makes its mask.

    On CUDA both are compiled. On a CPU they run uncompiled, which is slow and gives no gradients. They are imported
    only here because they import PyTorch's compiler, which takes seconds.
    """
    from torch.nn.attention import flex_attention as flex

    if not torch.cuda.is_available():
        return flex.flex_attention, flex.create_block_mask
    return torch.compile(flex.flex_attention, dynamic=True), torch.compile(flex.create_block_mask, dynamic=True)

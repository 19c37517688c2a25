"""Attention to a cached context with flash-attn. The new tokens of a row (one context in the cache) are compared only
with the keys of the same row. So nothing is padded, masked or repeated.

Letters: R rows, N new tokens, M keys of all rows, h query heads, k key/value heads, d numbers per head.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.cache import KVCache, require_room
from irg_rl.model.pack import Pack


class FlashAttention:
    """Attention of new tokens to cached contexts, computed with flash-attn. The result is the same as with
    `CachedAttention`. Every row gets one new block of tokens. If `causal` is True, the block is a text. Otherwise it is
    an image, and all its tokens see each other.

    `kernel(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=)` is flash-attn's
    `flash_attn_varlen_func`. It takes q [N, h, d] and k, v [M, k, d]. In each of them, the tokens of row 0 come first,
    then the tokens of row 1, and so on. With `causal=True`, the last query of a row sees all keys of the row, and each
    earlier query sees one key less.
    """

    def __init__(
        self,
        kernel: Callable[..., Tensor],
        cache: KVCache,
        rows: Tensor | None,
        lengths: Int[Tensor, "R"],
        new: list[int],
        pack: Pack,
        write: bool,
        causal: bool,
    ) -> None:
        device = cache.keys[0].device
        self._kernel, self._cache, self._write, self._causal = kernel, cache, write, causal
        added = torch.tensor(new)
        keys = lengths + added
        if write:
            require_room(cache, keys)
        self._bounds = tuple(F.pad(count.cumsum(0), (1, 0)).int().to(device) for count in (added, keys))
        self._longest = (int(added.max()), int(keys.max()))
        row = torch.repeat_interleave(keys)  # row of each key; the keys go row by row
        column = torch.arange(len(row)) - (keys.cumsum(0) - keys)[row]
        is_new = column >= lengths[row]
        row = row if rows is None else rows.cpu()[row]
        self._old, self._new = (part.nonzero()[:, 0].to(device) for part in (~is_new, is_new))
        self._old_at, self._new_at = ((row[p].to(device), column[p].to(device)) for p in (~is_new, is_new))
        self._by_row = pack.slot.argsort()  # from the pack's stream order to row by row
        self._by_stream = self._by_row.argsort()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N hd"]:
        q, k, v = (x.index_select(0, self._by_row) for x in (q, k, v))
        k, v = self._joined(self._cache.keys[layer], k), self._joined(self._cache.values[layer], v)
        mixed = self._kernel(q, k, v, *self._bounds, *self._longest, causal=self._causal).flatten(1)
        return mixed.index_select(0, self._by_stream)

    def _joined(self, stored: Float[Tensor, "B k C d"], new: Float[Tensor, "N k d"]) -> Float[Tensor, "M k d"]:
        """Return, for each row, the stored keys (or values) of its cached tokens followed by those of its new
        tokens."""
        if self._write:
            row, column = self._new_at
            stored[row, :, column] = new
        row, column = self._old_at
        joined = new.new_empty(len(self._old) + len(self._new), *new.shape[1:])
        joined[self._old] = stored[row, :, column]
        joined[self._new] = new
        return joined

"""Key/value cache for a batch of contexts (the tokens that a model has seen so far). A context grows by one block (a
text or an image) at a time. Each row of the cache holds one context.

Letters: B rows of the cache, R rows that a call works on, C capacity, S cached tokens that are read, T tokens of the
new blocks (padded), N new tokens, h query heads, k key/value heads, d numbers per head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from irg_rl.model.attention import grouped_attention
from irg_rl.model.config import LLMConfig
from irg_rl.model.pack import Pack


@dataclass(frozen=True)
class Mark:
    """A record of the lengths of all contexts (token sequences) in a cache at one moment. With a mark, a context can
    later be read as it was at that moment, or be set back to it. `positions` has the rope position of the next token of
    each context."""

    lengths: Int[Tensor, "B"]
    positions: Int[Tensor, "B"]

    def of(self, rows: Int[Tensor, "R"]) -> "Mark":
        """Return this mark for a second cache. Row i of the second cache must be a copy of row `rows[i]` of the first
        cache, where this mark was made."""
        return Mark(self.lengths[rows], self.positions[rows])


class KVCache:
    """Memory for the keys and values of a batch of contexts, one context per row. For each row, the cache also holds
    the number of cached tokens (`lengths`) and the next rope position (`positions`).

    `lengths` and `positions` are on the CPU. Restoring a mark only changes these numbers: no tensor is copied, and
    later writes overwrite the tokens beyond the mark.
    """

    def __init__(self, config: LLMConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.batch, self.capacity = batch, capacity
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.positions = torch.zeros(batch, dtype=torch.long)

    def mark(self) -> Mark:
        return Mark(self.lengths.clone(), self.positions.clone())

    def begin_as(self, other: "KVCache", rows: Int[Tensor, "B"] | None = None) -> None:
        """Fill this cache with rows (contexts) that are copied from another cache of the same capacity.

        rows: for each row of this cache, the index of the row of `other` that is copied into it. A row of `other` may
        be copied several times. If `rows` is None, row i is copied into row i.
        """
        which = torch.arange(other.batch) if rows is None else rows
        used = int(other.lengths[which].max())
        source = which.to(self.keys[0].device)
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values):
            mine[:, :, :used] = theirs[:, :, :used].index_select(0, source)
        self.lengths, self.positions = other.lengths[which], other.positions[which]

    def restore(self, mark: Mark, rows: Tensor | None = None) -> None:
        """Set the contexts in `rows` back to the lengths that they had at `mark`. If `rows` is None, set all contexts
        back. Raises ValueError if a context is now shorter than it was at the mark."""
        which = slice(None) if rows is None else rows.cpu()
        if (mark.lengths[which] > self.lengths[which]).any():
            raise ValueError("a context is shorter than the mark it should return to: marks do not restore forwards")
        self.lengths[which] = mark.lengths[which]
        self.positions[which] = mark.positions[which]


def require_room(cache: KVCache, lengths: Int[Tensor, "R"]) -> None:
    """Raise ValueError if contexts (token sequences) of these lengths do not fit into the cache."""
    if (longest := int(lengths.max())) > cache.capacity:
        raise ValueError(f"a context of {longest} tokens exceeds the cache's capacity of {cache.capacity}")


class CachedAttention:
    """Attention of new tokens in R rows of a cache, with at most T new tokens per row. A new token sees the cached
    context of its row, and other new tokens of the same row.

    `lengths` holds the number of cached tokens of each row, and `new` the number of its new tokens. `own` [R, T, T]
    says which new tokens of a row see each other. If `write` is True, the new keys and values are written to the cache.
    Then the caller must update the lengths in the cache. If `write` is False, the cache does not change.
    """

    def __init__(
        self,
        cache: KVCache,
        rows: Tensor | None,
        lengths: Int[Tensor, "R"],
        new: list[int],
        own: Bool[Tensor, "R T T"],
        pack: Pack | None,
        write: bool,
    ) -> None:
        device = cache.keys[0].device
        self._cache = cache
        self._write = write
        self._pack = pack
        self._rows = None if rows is None else rows.to(device)
        ends = lengths + torch.tensor(new)
        if write:
            require_room(cache, ends)
        self._span = int((ends if write else lengths).max())
        self._mask = _mask(lengths.to(device), self._span, own, write)[:, None]
        if write:
            row, column = (torch.arange(len(new), device=device), 0) if pack is None else _places(pack, own.shape[1])
            self._put_column = lengths.to(device)[row] + column
            self._put_row = row if self._rows is None else self._rows[row]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N hd"]:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        if self._write:
            keys[self._put_row, :, self._put_column] = k
            values[self._put_row, :, self._put_column] = v
        keys, values = self._context(keys), self._context(values)
        if not self._write:
            keys, values = (torch.cat([old, self._pad(new)], dim=2) for old, new in ((keys, k), (values, v)))
        mixed = grouped_attention(self._pad(q), keys, values, self._mask)
        flat = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
        return flat if self._pack is None else flat.index_select(0, self._pack.slot)

    def _context(self, stored: Float[Tensor, "B k C d"]) -> Float[Tensor, "R k S d"]:
        seen = stored[:, :, : self._span]
        return seen if self._rows is None else seen.index_select(0, self._rows)

    def _pad(self, x: Float[Tensor, "N heads d"]) -> Float[Tensor, "R heads T d"]:
        if self._pack is None:
            return x[:, :, None]
        return x.index_select(0, self._pack.unslot).unflatten(0, (self._pack.rows, -1)).transpose(1, 2)


def _places(pack: Pack, length: int) -> tuple[Tensor, Tensor]:
    """Return two tensors: the row and the column of every token of the pack, in rows padded to `length`."""
    return pack.slot // length, pack.slot % length


def _mask(lengths: Int[Tensor, "R"], span: int, own: Bool[Tensor, "R T T"], write: bool) -> Bool[Tensor, "R T S"]:
    """Return a mask that says which keys each new token sees: the keys of its cached context, and the new keys chosen
    by `own`. If `write` is True, the new keys stand directly after the context of each row. Otherwise they stand after
    the column at which the longest context ends."""
    since = torch.arange(span, device=lengths.device) - lengths[:, None]  # columns since the end of the context
    count = own.shape[1]
    context = (since < 0)[:, None].expand(-1, count, -1)
    if not write:
        return torch.cat([context, own], dim=2)
    index = since.clamp(0, count - 1)[:, None].expand(-1, count, -1)
    return context | (own.gather(2, index) & ((since >= 0) & (since < count))[:, None])

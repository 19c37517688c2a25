"""Sampling text on a GPU. One step, from a new token to the logits of the next token, is one CUDA graph.

A step of a large model starts about a thousand small kernels. Starting them one by one from Python takes several times
longer than running them. A CUDA graph starts them all at once, but it needs constant sizes. Therefore every step
computes all rows (one row is one text), also after the end of a text. (After its end, a row writes only beyond its
context, and this is never read.) For the same reason attention reads the same number of cache columns for every row. A
mask hides the columns that do not belong to the row.

Letters: B all rows of the cache; R the rows of the cache that a decoder works on (R <= B); A the rows that get a token
in one step (A <= R); S cache columns that are read, h query heads, k key/value heads, d numbers per head, V vocabulary.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.cache import KVCache
from irg_rl.model.transformer import LanguageModel

Decode = Callable[[Int[Tensor, "A"], Int[Tensor, "A"]], Float[Tensor, "A V"]]
"""A function `decode(token_ids, some)` for texts that grow token by token in the rows of a cache. `some` holds the
indices of the rows that get a token in this step, and `token_ids` holds one token for each of them. The function
returns, for each of these rows, the logits of its next token."""


class SingleTokens:
    """Attention for one new token in each row of a cache (a row is one text with its context). `span` is the number of
    cache columns that are read. The token's key and value are written to the cache at column `lengths[r]` of row r. The
    code never waits for the GPU to send a value to the CPU."""

    def __init__(self, cache: KVCache, rows: Int[Tensor, "R"] | None, lengths: Int[Tensor, "R"], span: int) -> None:
        self._cache, self._rows, self._lengths, self._span = cache, rows, lengths, span
        self._put_row = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
        self._mask = (torch.arange(span, device=lengths.device) <= lengths[:, None])[:, None, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "R hd"]:
        keys, values = self._entered(self._cache.keys[layer], k), self._entered(self._cache.values[layer], v)
        heads = q.unflatten(1, (keys.shape[1], -1))  # query heads with one key head become its queries
        return F.scaled_dot_product_attention(heads, keys, values, attn_mask=self._mask).flatten(1)

    def _entered(self, stored: Float[Tensor, "B k C d"], new: Float[Tensor, "R k d"]) -> Float[Tensor, "R k S d"]:
        stored[self._put_row, :, self._lengths] = new
        seen = stored[:, :, : self._span]
        return seen if self._rows is None else seen.index_select(0, self._rows)


class GraphDecoder:
    """A function of type `Decode` that appends tokens to rows of a cache on a GPU. It runs as one CUDA graph.

    rows: the rows of the cache that get tokens, in ascending order. tokens: the largest number of tokens that each row
    may get.

    Use only one decoder per device at a time: all decoders of a device are recorded on one CUDA stream and use the same
    working memory. Raises ValueError, before any work on the GPU, if a context would become longer than the cache has
    room for.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, rows: Int[Tensor, "R"], tokens: int) -> None:
        device = cache.keys[0].device
        self._cache, self._rows = cache, rows.cpu()
        self._span = min(int(cache.lengths[self._rows].max()) + tokens, cache.capacity)
        self._require_room()
        self._which = None if len(rows) == cache.batch else rows.to(device)  # kept: the graph stores only its address
        self._lengths, self._positions = (x[self._rows].to(device) for x in (cache.lengths, cache.positions))
        self._tokens = torch.zeros_like(self._lengths)

        def step() -> Tensor:
            attend = SingleTokens(cache, self._which, self._lengths, self._span)
            und, _ = model.model(model.model.embed_tokens(self._tokens), None, self._positions, attend)
            return model.lm_head(und)

        beside, now = _stream(device), torch.cuda.current_stream(device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad():
            beside.wait_stream(now)
            with torch.cuda.stream(beside):
                step()  # the first call of a kernel allocates memory, which must not be recorded
            now.wait_stream(beside)
            with torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"):
                self._logits = step()

    def __call__(self, token_ids: Int[Tensor, "A"], some: Int[Tensor, "A"]) -> Float[Tensor, "A V"]:
        self._require_room()
        on_device = some.to(self._tokens.device)
        self._tokens[on_device] = token_ids.to(self._tokens.device)
        self._graph.replay()
        for grown in (self._lengths, self._positions):
            grown[on_device] += 1
        for grown in (self._cache.lengths, self._cache.positions):
            grown[self._rows[some]] += 1
        return self._logits[on_device]

    def _require_room(self) -> None:
        if (longest := int(self._cache.lengths[self._rows].max())) >= self._span:
            raise ValueError(f"a context of {longest + 1} tokens exceeds the {self._span} that are looked at")


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the CUDA stream on which the CUDA graphs of decoding are recorded. All decoders of a device share this
    stream, because every stream keeps its own working memory."""
    return torch.cuda.Stream(device)

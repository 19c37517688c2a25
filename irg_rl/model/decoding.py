"""Texts on a GPU, token after token: the step to the next logits as one CUDA graph.

A step of a large model is some thousand small kernels, and to start them one by one from Python takes several times as
long as they run. Recorded, they start as one. For that everything keeps its size: all rows go through every step, those
whose text has ended too (what these write lies beyond the ends of their contexts), and attention looks at the same
columns of the cache, of which each row sees its own.

Letters: A rows taking part, B rows of the cache, R rows of the texts, S columns looked at, h query heads, k key/value
heads, d numbers per head, V vocabulary.
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
"""decode(token_ids, some): one token more in each of the rows `some`, and the logits of the one after it."""


class SingleTokens:
    """`attend` of one new token per row, which enters the cache at column lengths[r]; nothing waits for a number."""

    def __init__(self, cache: KVCache, rows: Int[Tensor, "R"] | None, lengths: Int[Tensor, "R"], span: int) -> None:
        self._cache, self._rows, self._lengths, self._span = cache, rows, lengths, span
        self._put_row = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
        self._mask = (torch.arange(span, device=lengths.device) <= lengths[:, None])[:, None, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "R hd"]:
        keys, values = self._entered(self._cache.keys[layer], k), self._entered(self._cache.values[layer], v)
        heads = q.unflatten(1, (keys.shape[1], -1))  # those that share keys look at them as queries of one head would
        return F.scaled_dot_product_attention(heads, keys, values, attn_mask=self._mask).flatten(1)

    def _entered(self, stored: Float[Tensor, "B k C d"], new: Float[Tensor, "R k d"]) -> Float[Tensor, "R k S d"]:
        stored[self._put_row, :, self._lengths] = new
        seen = stored[:, :, : self._span]
        return seen if self._rows is None else seen.index_select(0, self._rows)


class GraphDecoder:
    """`Decode` for the rows of a cache on a GPU, each of which gets at most `tokens` more. `rows` are ascending. One
    at a time per device: all are recorded on one stream, and share its room to work in.

    ValueError where a context would outgrow the cache, before anything on the card is touched.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, rows: Int[Tensor, "R"], tokens: int) -> None:
        device = cache.keys[0].device
        self._cache, self._rows = cache, rows.cpu()
        self._span = min(int(cache.lengths[self._rows].max()) + tokens, cache.capacity)
        self._require_room()
        self._which = None if len(rows) == cache.batch else rows.to(device)  # held: the graph knows its address alone
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
                step()  # what kernels allocate at their first call must not be recorded
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
    """The one that steps are recorded on: every stream keeps room to work in of its own."""
    return torch.cuda.Stream(device)

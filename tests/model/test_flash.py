"""Cached inference by sequences of different lengths computes what SDPA computes under masks.

There is no GPU here, so the kernel is a stand-in: what flash-attn documents of `flash_attn_varlen_func`, one sequence
after the other.
"""

import pytest
import torch
import torch.nn.functional as F

from irg_rl.model import incremental
from irg_rl.model.attention import Backend
from irg_rl.model.flash import FlashAttention
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close
from tests.model.test_incremental import GRID, ROWS, TURNS, _decode, _draw


def sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False):
    """q [N, h, d], k and v [M, k, d]. causal: the last query sees the last key."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert (cu_seqlens_q[-1], cu_seqlens_k[-1]) == (len(q), len(k)) and k.shape == v.shape
    found = []
    for own, seen in zip(bounds(cu_seqlens_q), bounds(cu_seqlens_k)):
        queries, keys = own.stop - own.start, seen.stop - seen.start
        assert queries <= max_seqlen_q and keys <= max_seqlen_k
        mask = torch.ones(queries, keys, dtype=torch.bool)
        mask = mask.tril(keys - queries) if causal else mask
        parts = (x[where].transpose(0, 1) for x, where in ((q, own), (k, seen), (v, seen)))
        found.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True).transpose(0, 1))
    return torch.cat(found)


def bounds(edges: torch.Tensor) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in zip(edges, edges[1:])]


@pytest.fixture
def flash(tiny, monkeypatch) -> UnifiedModel:
    """The tiny model with the stand-in, which counts its calls."""
    calls = []
    monkeypatch.setattr(incremental, "flash_kernel", lambda: lambda *a, **k: calls.append(k) or sequences(*a, **k))
    model = UnifiedModel(tiny.config, SPECIAL, Backend.FLASH)
    model.load_state_dict(tiny.state_dict())
    model.calls = calls
    return model


@torch.no_grad()
def test_three_turns_with_rows_that_end_early_equal_those_of_sdpa(tiny, flash):
    rows = _draw(seed=3)
    caches = {model: model.new_cache(ROWS, 128) for model in (tiny, flash)}
    found = {model: [] for model in caches}
    for model, cache in caches.items():
        model.prefill_text(cache, [prompt for prompt, _ in rows])
        start = cache.mark()
        for index in range(TURNS):
            turn = [turns[index] for _, turns in rows]
            found[model] += _decode(model, cache, [t["ids"] for t in turn])
            some = torch.tensor([0, 2])
            x, times = torch.stack([t["x"] for t in turn]), torch.tensor([t["t"] for t in turn])
            found[model].append(model.velocity(cache, x, times, GRID))
            found[model].append(model.velocity(cache, x[some], times[some], GRID, some, at=start))
            clean, patches = ([turn[row][name] for row in some] for name in ("clean", "patches"))
            model.prefill_image(cache, clean, GRID, patches, GRID, some)
            model.prefill_text(cache, [[7], [8, 9]], torch.tensor([1, 2]))
    for one, other in zip(found[flash], found[tiny], strict=True):
        close(one, other, 1e-5)
    mine, theirs = caches[flash], caches[tiny]
    assert torch.equal(mine.lengths, theirs.lengths)
    for row, length in enumerate(mine.lengths.tolist()):
        for one, other in zip(mine.keys + mine.values, theirs.keys + theirs.values):
            close(one[row, :, :length], other[row, :, :length], 1e-5)
    assert {call["causal"] for call in flash.calls} == {True, False}


@torch.no_grad()
def test_an_image_that_is_looked_at_has_two_blocks_and_stays_with_sdpa(flash):
    cache = flash.new_cache(1, 64)
    flash.prefill_text(cache, [[1]])
    before = len(flash.calls)
    flash.prefill_image(cache, [torch.randn(4, 16)], GRID, [torch.randn(4, 192)], GRID)
    assert len(flash.calls) == before > 0


def test_a_full_cache_is_refused(flash):
    cache = flash.new_cache(2, 4)
    with pytest.raises(ValueError, match="a context of 5 tokens exceeds the cache's capacity of 4"):
        FlashAttention(sequences, cache, None, torch.tensor([1, 3]), [2, 2], None, True, True)

"""Incremental inference computes what the packed forward computes, for contexts of different lengths in one batch."""

import pytest
import torch

from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close

GRID = (2, 2)
ROWS, TURNS = 3, 3


def _draw(seed: int):
    """Per row: a prompt, and per turn a text, a noisy state, a clean image and its patches."""
    g = torch.Generator().manual_seed(seed)

    def ids():
        return torch.randint(0, 60, (int(torch.randint(1, 9, (), generator=g)),), generator=g).tolist()

    def turn():
        return {
            "ids": ids(),
            "x": torch.randn(4, 16, generator=g),
            "t": float(torch.rand((), generator=g)),
            "clean": torch.randn(4, 16, generator=g),
            "patches": torch.randn(4, 192, generator=g),
        }

    return [(ids(), [turn() for _ in range(TURNS)]) for _ in range(ROWS)]


def _packed(model: UnifiedModel, rows, history: str) -> tuple[list, list]:
    """Logits and velocities [turn][row] of one packed forward."""
    builder = model.pack_builder()
    texts, images = [[] for _ in range(TURNS)], [[] for _ in range(TURNS)]
    for prompt, turns in rows:
        parent = builder.add_text(prompt)
        for index, turn in enumerate(turns):
            parent = builder.add_text(turn["ids"], parent, loss=True)
            texts[index].append(parent)
            images[index].append(builder.add_noise(turn["x"], turn["t"], GRID, parent))
            if index == 0:
                think = parent
            seen_from = parent if history == "full" else think
            parent = builder.add_vit(turn["patches"], GRID, builder.add_clean(turn["clean"], GRID, seen_from))
        builder.new_row()
    pack = builder.build()
    out = model(pack)
    logits = [[out.logits[pack.logit_slices[b]] for b in blocks] for blocks in texts]
    return logits, [[out.velocity[pack.velocity_slices[b]] for b in blocks] for blocks in images]


def _decode(model, cache, texts) -> list[torch.Tensor]:
    """Feeds bos and ids token by token, rows ending at their own lengths, then the closing eos; logits per row."""
    logits = [[] for _ in texts]
    for step in range(max(map(len, texts)) + 2):
        active = [row for row, ids in enumerate(texts) if step <= len(ids) + 1]
        fed = [[SPECIAL.bos, *texts[row], SPECIAL.eos][step] for row in active]
        rows = None if len(active) == len(texts) else torch.tensor(active)
        for row, value in zip(active, model.next_logits(cache, torch.tensor(fed), rows)):
            if step <= len(texts[row]):
                logits[row].append(value)
    return [torch.stack(values) for values in logits]


@pytest.mark.parametrize("history", ["full", "last"])
@torch.no_grad()
def test_three_turns_step_by_step_equal_the_packed_forward(tiny, history):
    rows = _draw(seed=0)
    logits, velocities = _packed(tiny, rows, history)
    cache = tiny.new_cache(ROWS, 128)
    tiny.prefill_text(cache, [prompt for prompt, _ in rows])
    for index in range(TURNS):
        turn = [turns[index] for _, turns in rows]
        for found, expected in zip(_decode(tiny, cache, [t["ids"] for t in turn]), logits[index]):
            close(found, expected, 1e-5)
        if index == 0:
            after_think = cache.mark()
        times = torch.tensor([t["t"] for t in turn])
        velocity = tiny.velocity(cache, torch.stack([t["x"] for t in turn]), times, GRID)
        close(velocity, torch.stack(velocities[index]), 1e-5)
        if history == "last":
            cache.restore(after_think)
        tiny.prefill_image(cache, [t["clean"] for t in turn], GRID, [t["patches"] for t in turn], GRID)


@torch.no_grad()
def test_prefilled_text_leaves_the_context_that_decoding_leaves(tiny):
    texts = [[1, 2, 3], [4], [5, 6]]
    decoded, prefilled = tiny.new_cache(3, 16), tiny.new_cache(3, 16)
    _decode(tiny, decoded, texts)
    tiny.prefill_text(prefilled, texts)
    assert torch.equal(decoded.lengths, prefilled.lengths) and torch.equal(decoded.positions, prefilled.positions)
    for row, length in enumerate(decoded.lengths.tolist()):
        for layer in (0, 1):
            close(decoded.keys[layer][row, :, :length], prefilled.keys[layer][row, :, :length], 1e-5)


@torch.no_grad()
def test_a_velocity_at_a_mark_sees_the_context_of_that_mark_alone(tiny):
    cache, short = tiny.new_cache(2, 64), tiny.new_cache(2, 64)
    prompts = [[1, 2, 3], [4]]
    tiny.prefill_text(cache, prompts)
    tiny.prefill_text(short, prompts)
    mark = cache.mark()
    tiny.prefill_text(cache, [[7, 8], [9, 10, 11]])
    x, t = torch.randn(2, 4, 16), torch.tensor([0.3, 0.8])
    close(tiny.velocity(cache, x, t, GRID, at=mark), tiny.velocity(short, x, t, GRID), 1e-5)
    assert (tiny.velocity(cache, x, t, GRID) - tiny.velocity(short, x, t, GRID)).abs().max() > 1e-3


@torch.no_grad()
def test_velocities_leave_the_context_as_it_was(tiny):
    cache = tiny.new_cache(2, 32)
    tiny.prefill_text(cache, [[1, 2], [3]])
    before = [k.clone() for k in cache.keys + cache.values]
    draw = tiny.drawing(cache, 2, GRID)
    for t in (0.9, 0.5):
        x, times = torch.randn(2, 4, 16), torch.full((2,), t)
        assert torch.equal(draw(x, times), tiny.velocity(cache, x, times, GRID))
    assert all(torch.equal(a, b) for a, b in zip(before, cache.keys + cache.values))
    assert cache.lengths.tolist() == [4, 3]


@torch.no_grad()
def test_a_restored_context_forgets_what_came_after_its_mark(tiny):
    cache, fresh = tiny.new_cache(2, 64), tiny.new_cache(2, 64)
    for c in (cache, fresh):
        tiny.prefill_text(c, [[1, 2], [3]])
    mark = cache.mark()
    tiny.prefill_text(cache, [[30, 31, 32, 33], [34]])
    cache.restore(mark)
    bos = torch.tensor([SPECIAL.bos] * 2)
    close(tiny.next_logits(cache, bos), tiny.next_logits(fresh, bos), 1e-6)


@torch.no_grad()
def test_only_the_named_rows_take_part(tiny):
    cache = tiny.new_cache(3, 32)
    tiny.prefill_text(cache, [[1], [2, 3], [4]])
    everyone = cache.mark()
    rows = torch.tensor([2, 0])
    some = tiny.next_logits(cache, torch.tensor([7, 8]), rows)
    assert (cache.lengths - everyone.lengths).tolist() == [1, 0, 1]
    cache.restore(everyone)
    all_rows = tiny.next_logits(cache, torch.tensor([8, 9, 7]))
    close(some, all_rows[rows], 1e-5)


def test_restoring_forwards_is_refused(tiny):
    cache = tiny.new_cache(1, 16)
    tiny.prefill_text(cache, [[1, 2]])
    later = cache.mark()
    cache.restore(type(later)(later.lengths * 0, later.positions * 0))
    with pytest.raises(ValueError, match="restore forwards"):
        cache.restore(later)


def test_a_context_that_outgrows_the_cache_is_refused(tiny):
    cache = tiny.new_cache(1, 8)
    with pytest.raises(ValueError, match="10 tokens exceeds the cache's capacity of 8"):
        tiny.prefill_text(cache, [list(range(8))])


def test_a_missing_row_is_refused(tiny):
    cache = tiny.new_cache(2, 8)
    with pytest.raises(ValueError, match="1 items for 2 rows"):
        tiny.prefill_text(cache, [[1]])

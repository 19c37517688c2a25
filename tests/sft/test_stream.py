"""The stream of packs: it loses nothing, it resumes anywhere, and ranks and workers change nothing."""

import json
import re
from collections import Counter

import pytest
import torch

from irg_rl.config import DataSource, Dropout
from irg_rl.learner.process_group import Rank
from sft.dataset import DataError, Rejections
from sft.train import is_own
from tests.sft.material import drawn_broken, improving_full, initial_full, stage, stream, write

ONE = DataSource(folder="one")
TWO = DataSource(folder="two")


def numbers_in(world, pack) -> list[int]:
    """The rows of a pack, by the number in their prompt."""
    said = world.tokenizer.decode(pack.pack.text_ids.tolist())
    return [int(n) for n in re.findall(r"row(\d+)", said)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "one", [initial_full(n, "red " * (1 + n % 5)) for n in range(12)])
    write(tmp_path / "two", [improving_full(n) for n in range(100, 108)])
    return tmp_path


def test_packs_are_filled_up_to_their_limit_and_no_row_is_lost(world, folder):
    packs = stream(world, folder, stage(ONE, tokens_per_pack=90))
    drawn_rows = []
    while len(drawn_rows) < 36:
        pack = packs.next()
        assert 30 < pack.pack.tokens <= 90
        drawn_rows += numbers_in(world, pack)
    assert [sorted(drawn_rows[i : i + 12]) for i in (0, 12, 24)] == [list(range(12))] * 3


def test_mandatory_sources_are_in_every_pack_even_when_they_alone_overfill_it(world, folder):
    chosen = stage(
        DataSource(folder="one", weight=1.0, mandatory=True), DataSource(folder="two", weight=0.0, mandatory=True),
        tokens_per_pack=20,
    )  # fmt: skip
    packs, seen_rows = stream(world, folder, chosen), []
    for _ in range(12):
        rows = numbers_in(world, packs.next())
        assert len(rows) == 2 and rows[0] < 100 <= rows[1]
        seen_rows += rows
    assert Counter(n for n in seen_rows if n < 100) == Counter(range(12))


def test_a_source_of_weight_zero_is_not_drawn_beyond_its_mandatory_row(world, folder):
    chosen = stage(ONE, DataSource(folder="two", weight=0.0, mandatory=True), tokens_per_pack=300)
    for rows in (numbers_in(world, pack) for pack in map(lambda p: p.next(), [stream(world, folder, chosen)] * 4)):
        assert sum(n >= 100 for n in rows) == 1 and len(rows) > 4


def test_sources_are_drawn_by_their_weight(world, folder):
    chosen = stage(DataSource(folder="one", weight=3.0), DataSource(folder="two", weight=1.0), tokens_per_pack=2000)
    rows = numbers_in(world, stream(world, folder, chosen).next())
    assert sum(n >= 100 for n in rows) / len(rows) == pytest.approx(0.25, abs=0.13)


def equal(one, other) -> bool:
    tensors = [(getattr(one.pack, n), getattr(other.pack, n)) for n in ("text_ids", "latents", "patches", "times")]
    tensors += [(one.velocities, other.velocities), (one.pack.positions, other.pack.positions)]
    return one.pack.lengths == other.pack.lengths and all(torch.equal(a, b) for a, b in tensors)


def test_a_stream_resumes_bit_for_bit_anywhere(world, folder):
    chosen = stage(DataSource(folder="one", mandatory=True), TWO, tokens_per_pack=150, noise_blocks=2)
    make = lambda: stream(world, folder, chosen, Dropout())  # noqa: E731
    whole = make()
    packs = [whole.next() for _ in range(10)]
    for stop in range(8):
        begun = make()
        for _ in range(stop):
            begun.next()
        resumed = make()
        resumed.load_state(json.loads(json.dumps(begun.state())))
        assert equal(resumed.next(), packs[stop]) and equal(resumed.next(), packs[stop + 1]), f"after {stop}"


def test_a_pack_left_to_another_rank_is_gone_past_and_its_images_are_not_decoded(world, folder, monkeypatch):
    chosen = stage(DataSource(folder="one", mandatory=True), TWO, tokens_per_pack=150)
    whole, shared = (stream(world, folder, chosen, Dropout()) for _ in range(2))
    packs = [whole.next() for _ in range(6)]
    with monkeypatch.context() as patched:
        patched.setattr("sft.rows.decode_file", lambda data, where: pytest.fail("decoded"))
        for _ in range(4):
            shared.skip()
    assert equal(shared.next(), packs[4]) and equal(shared.next(), packs[5])
    assert shared.state() == whole.state()


@pytest.mark.parametrize("workers", [1, 3])
def test_packs_that_are_decoded_ahead_are_the_same_and_resume_where_the_last_was_taken(world, folder, workers):
    chosen = stage(DataSource(folder="one", mandatory=True), TWO, tokens_per_pack=150, noise_blocks=2)
    make = lambda workers: stream(world, folder, chosen, Dropout(), workers=workers)  # noqa: E731
    whole, ahead, resumed = make(0), make(workers), make(workers)
    packs, states = [], [whole.state()]
    for _ in range(9):
        packs.append(whole.next())
        states.append(whole.state())
    for number in range(6):
        assert ahead.state() == states[number] and ahead.number == number
        assert equal(ahead.next(), packs[number])
    resumed.next()  # it has drawn packs ahead, which a resume must forget
    resumed.load_state(json.loads(json.dumps(ahead.state())))
    assert all(equal(resumed.next(), packs[number]) for number in (6, 7, 8))
    assert resumed.state() == whole.state()
    for opened in (ahead, resumed):
        opened.close()


def test_two_ranks_have_the_packs_of_one_between_them(world, folder):
    chosen = stage(ONE, TWO, tokens_per_pack=150, packs_per_step=3)
    whole = stream(world, folder, chosen, Dropout())
    packs = [whole.next() for _ in range(6)]
    assert [is_own(number, chosen, Rank(0, 2)) for number in range(6)] == [True, False, True] * 2
    for rank in (Rank(0, 2), Rank(1, 2)):
        own = lambda number, rank=rank: is_own(number, chosen, rank)  # noqa: E731
        shared = stream(world, folder, chosen, Dropout(), is_own=own, workers=1)
        for number, pack in enumerate(packs):
            assert equal(shared.next(), pack) if own(number) else shared.skip() is None
        shared.close()


def test_workers_decode_no_image_of_another_rank(world, folder, monkeypatch):
    monkeypatch.setattr("sft.rows.decode_file", lambda data, where: pytest.fail("decoded"))
    packs = stream(world, folder, stage(ONE, TWO), is_own=lambda number: False, workers=1)
    drawn = [packs._take() for _ in range(4)]
    packs.close()
    assert all(pack.rows and not pack.ready for pack in drawn)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_whose_image_is_damaged_is_left_out_of_its_pack_and_listed(world, folder, workers):
    """The rows that are drawn do not depend on it, because other ranks do not decode the image."""
    rows = [initial_full(n) for n in range(4)]
    write(folder / "three", rows)
    write(folder / "four", [*rows[:2], drawn_broken(2), rows[3]])
    found = {}
    for name in ("three", "four"):
        rejections = Rejections(folder / f"{name}.jsonl", is_first=False)
        packs = stream(
            world, folder, stage(DataSource(folder=name), tokens_per_pack=45), rejections=rejections, workers=workers
        )
        found[name] = [[] if (pack := packs.next()) is None else numbers_in(world, pack) for _ in range(12)]
        packs.close()
    assert found["four"] == [[row for row in pack if row != 2] for pack in found["three"]]
    (entry,) = map(json.loads, (folder / "four.jsonl").read_text().splitlines())
    assert entry["row"] == 2 and "the image can't be decoded" in entry["reason"]
    assert not (folder / "three.jsonl").exists()


def test_a_pack_of_damaged_rows_alone_is_no_pack(world, tmp_path):
    write(tmp_path / "one", [drawn_broken(0)])
    packs = stream(world, tmp_path, stage(ONE, tokens_per_pack=20))
    assert packs.next() is None and packs.number == 1


def test_an_error_while_packs_are_drawn_ahead_comes_when_the_pack_is_taken(world, folder):
    packs = stream(world, folder, stage(ONE, max_row_tokens=5), workers=2)
    with pytest.raises(DataError, match="an epoch has no usable row"):
        packs.next()
    packs.close()


def test_packs_differ_from_each_other_in_their_noise(world, tmp_path):
    write(tmp_path / "one", [initial_full(0)])
    packs = stream(world, tmp_path, stage(ONE, tokens_per_pack=20))
    first, second = packs.next(), packs.next()
    assert numbers_in(world, first) == numbers_in(world, second) == [0]
    assert not torch.equal(first.pack.times, second.pack.times)


def test_over_long_rows_are_listed_and_left_out(world, folder):
    rejections = Rejections(folder / "rejected.jsonl")
    packs = stream(world, folder, stage(ONE, TWO, max_row_tokens=30, tokens_per_pack=60), rejections=rejections)
    with pytest.raises(DataError, match="two: an epoch has no usable row"):
        for _ in range(30):
            packs.next()
    entries = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    reasons = [entry["reason"] for entry in entries if "/two/" in entry["file"]]
    assert len(reasons) == 8 and all("tokens are more than max_row_tokens 30" in reason for reason in reasons)


def test_a_stage_whose_rows_are_all_over_long_ends_instead_of_spinning(world, folder):
    with pytest.raises(DataError, match="an epoch has no usable row"):
        stream(world, folder, stage(ONE, max_row_tokens=5)).next()


def test_validation_packs_hold_every_held_out_row_once_and_are_always_the_same(world, folder):
    make = lambda: stream(world, folder, stage(ONE, TWO, tokens_per_pack=120), hold_out=3)  # noqa: E731
    first, second = make().held_out(1), make().held_out(1)
    assert sorted(n for pack in first for n in numbers_in(world, pack)) == [0, 1, 2, 100, 101, 102]
    assert len(first) > 1 and all(pack.pack.tokens <= 120 for pack in first)
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    packs = make()
    assert not {0, 1, 2, 100, 101, 102} & {n for _ in range(8) for n in numbers_in(world, packs.next())}


def test_no_row_for_validation_is_an_error(world, tmp_path):
    write(tmp_path / "one", ["broken", *(initial_full(n) for n in range(3))])
    with pytest.raises(DataError, match="no usable row is left for validation"):
        stream(world, tmp_path, stage(ONE), hold_out=1).held_out(1)

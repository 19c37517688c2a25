"""The stream of rows: shuffled, resumable, honest about what it cannot read."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft.dataset import DataError, Rejections, RowSource
from tests.sft.material import thinking, write

BROKEN = "{half a row"


def source(folder, seed=3, rejections=None, hold_out=0) -> RowSource:
    return RowSource(folder, seed, rejections or Rejections(), hold_out)


def number(row) -> int:
    return int(row[0].text.removeprefix("row").split()[0])


def numbers(rows: RowSource, count: int) -> list[int]:
    return [number(rows.draw()) for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Ten rows in two files and four row groups, one of them broken."""
    rows = [thinking(n) for n in range(10)]
    rows[6] = BROKEN
    write(tmp_path / "mode", rows[:6], per_group=4, name="a")
    write(tmp_path / "mode", rows[6:], per_group=2, name="b")
    return tmp_path / "mode"


GOOD = [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_an_epoch_holds_every_good_row_once_in_an_order_of_its_own(folder):
    rows = source(folder)
    first, second = numbers(rows, 9), numbers(rows, 9)
    assert sorted(first) == sorted(second) == GOOD
    assert first != second and first != GOOD
    assert numbers(source(folder, seed=4), 9) != first == numbers(source(folder), 9)


def test_a_cursor_saved_anywhere_gives_the_rows_of_an_uninterrupted_run(folder):
    whole = numbers(source(folder), 30)
    for stop in range(21):  # over the edges of groups, files and epochs
        begun = source(folder)
        assert numbers(begun, stop) == whole[:stop]
        resumed = source(folder)
        resumed.load_state(json.loads(json.dumps(begun.state())))
        assert numbers(resumed, 9) == whole[stop : stop + 9], f"stopped after {stop} rows"


def test_a_row_can_be_put_back(folder):
    rows = source(folder)
    for _ in range(25):
        cursor = rows.state()
        first = number(rows.draw())
        rows.load_state(cursor)
        assert number(rows.draw()) == first


def test_held_out_rows_are_never_drawn(folder):
    rows = source(folder, hold_out=3)
    assert [number(row) for row in rows.held_out()] == [0, 1, 2]
    assert sorted(numbers(rows, 6)) == sorted(numbers(rows, 6)) == [3, 4, 5, 7, 8, 9]


def test_a_missing_folder_says_which_and_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no parquet files; set sft\.data"):
        source(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named_before_any_training(folder, share):
    file = folder / "b.parquet"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"b\.parquet: not a readable parquet file"):
        source(folder)


def test_a_file_that_is_damaged_inside_is_named_when_it_is_read(folder):
    file = folder / "a.parquet"
    data = bytearray(file.read_bytes())
    data[4:80] = bytes(76)
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.parquet: row group 0 has no readable `conversation` column"):
        numbers(source(folder), 9)


def test_a_file_without_the_column_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no readable `conversation` column"):
        source(tmp_path).draw()


def test_a_file_without_rows_is_an_error(tmp_path):
    pq.write_table(pa.table({"conversation": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"hold no rows|no usable row"):
        source(tmp_path).draw()


def test_changed_data_refuse_an_old_cursor(folder):
    state = source(folder).state()
    write(folder, [thinking(n) for n in range(50, 54)], name="b")
    with pytest.raises(DataError, match="the rows changed since the checkpoint"):
        source(folder).load_state(state)


def test_one_changed_byte_in_the_middle_of_a_file_refuses_an_old_cursor(tmp_path):
    """Only the last 4 KiB of a file were part of the fingerprint."""
    write(tmp_path, [random.Random(n).randbytes(3000).hex() for n in range(10)])
    state, (file,) = source(tmp_path).state(), tmp_path.glob("*.parquet")
    data = bytearray(file.read_bytes())
    assert len(data) > 3 * 4096
    data[4096] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="the rows changed since the checkpoint"):
        source(tmp_path).load_state(state)


def test_more_rejected_rows_than_the_budget_end_the_run(tmp_path):
    write(tmp_path / "one", [BROKEN, *(thinking(n) for n in range(19))])
    within = Rejections(tmp_path / "rejected.jsonl", largest_share=0.05)
    numbers(source(tmp_path / "one", rejections=within), 40)
    assert len(within.seen) == 1
    write(tmp_path / "two", [BROKEN, BROKEN, *(thinking(n) for n in range(18))])
    beyond = Rejections(tmp_path / "rejected.jsonl", largest_share=0.05)
    with pytest.raises(DataError, match=r"2 rows are rejected .* of 20 .*sft.rejected_share .*rejected.jsonl"):
        numbers(source(tmp_path / "two", rejections=beyond), 40)
    with pytest.raises(DataError, match="sft.rejected_share"):
        source(tmp_path / "two", hold_out=4, rejections=Rejections(largest_share=0.05)).held_out()


def test_a_resumed_stage_counts_the_rows_that_it_had_rejected_and_no_others(tmp_path):
    """Fails where the rejected rows of an earlier stage count against the few rows that a later stage has read."""
    write(tmp_path / "mode", [BROKEN if n in (3, 7, 11, 15) else thinking(n) for n in range(40)], per_group=10)
    earlier = Rejections(tmp_path / "rejected.jsonl", largest_share=0.1)
    whole = source(tmp_path / "mode", rejections=earlier)
    for _ in range(12):
        whole.draw()
        again = source(tmp_path / "mode", rejections=Rejections(tmp_path / "rejected.jsonl", largest_share=0.1))
        again.load_state(whole.state())
        assert again._rejected == whole._rejected
    later = source(tmp_path / "mode", seed=4, rejections=Rejections(tmp_path / "rejected.jsonl", largest_share=0.1))
    while len(whole._rejected) < 4:
        whole.draw()
    later.load_state(later.state())
    assert len(earlier.seen) == 4 and not later._rejected


def test_a_rank_compares_the_rows_that_it_could_not_decode_with_its_own_part(tmp_path, monkeypatch):
    """Each rank decodes its own packs alone. So eight ranks let eight times as many broken rows pass as one."""
    monkeypatch.setattr("sft.dataset.ENOUGH_ROWS", 10)
    write(tmp_path / "mode", [thinking(n) for n in range(400)])

    def broken(ranks: int) -> int:
        """Return how many of the first 200 rows may be broken for one rank. Each is met again in a later epoch."""
        own = Rejections(tmp_path / f"{ranks}.jsonl", largest_share=0.05, ranks=ranks)
        rows, places = source(tmp_path / "mode", rejections=own), []
        for _ in range(200):
            rows.draw()
            places.append(rows.last)
        for count, place in enumerate(places):
            try:
                rows.reject(place, "no image", decoded=True)
                rows.load_state(rows.state())  # as for a row that did not fit into a pack
                rows.reject(place, "no image", decoded=True)
            except DataError as error:
                assert f"{count + 1} rows are rejected after {200 // ranks} of 400" in str(error)
                return count
        raise AssertionError("all may be broken")

    assert [broken(ranks) for ranks in (1, 4)] == [10, 2]


def test_the_first_broken_rows_of_a_large_folder_do_not_end_the_run():
    rejections = Rejections(largest_share=0.05)
    rejections.require_budget(Path("rows"), rejected=50, drawn=60, rows=10_000)
    rejections.require_budget(Path("rows"), rejected=51, drawn=2000, rows=10_000)
    for drawn, rows, rejected in ((60, 100, 50), (1000, 10_000, 51)):
        with pytest.raises(DataError, match=f"{rejected} rows are rejected after {drawn} of {rows} were read"):
            rejections.require_budget(Path("rows"), rejected, drawn, rows)


def test_rows_that_are_all_broken_end_the_run_instead_of_spinning(tmp_path):
    write(tmp_path, [BROKEN] * 6)
    with pytest.raises(DataError, match="no usable row; add rows, or mend those in rejected.jsonl"):
        source(tmp_path).draw()


def test_rows_that_are_all_held_out_end_the_run_and_say_so(tmp_path):
    write(tmp_path, [thinking(n) for n in range(3)])
    with pytest.raises(DataError, match="no usable row .3 are kept for validation"):
        source(tmp_path, hold_out=3).draw()


def test_a_run_resumed_at_the_very_end_of_an_epoch_goes_on(tmp_path):
    write(tmp_path, [thinking(n) for n in range(4)])
    begun = source(tmp_path)
    numbers(begun, 4)
    resumed = source(tmp_path)
    resumed.load_state(begun.state())
    assert sorted(numbers(resumed, 4)) == [0, 1, 2, 3]


def test_each_rejected_row_is_listed_once_over_epochs_and_resumes(folder, tmp_path):
    listed = tmp_path / "rejected.jsonl"
    rejections = Rejections(listed)
    numbers(source(folder, rejections=rejections), 27)
    numbers(source(folder, rejections=Rejections(listed)), 9)  # another process
    (entry,) = map(json.loads, listed.read_text().splitlines())
    assert entry["file"] == str(folder / "b.parquet") and (entry["group"], entry["row"]) == (0, 0)
    assert "not JSON" in entry["reason"] and len(rejections.seen) == 1


def test_rows_at_the_same_place_of_different_groups_are_different_rows(tmp_path):
    rows = [thinking(n) if n % 2 else BROKEN for n in range(8)]
    write(tmp_path / "mode", rows, per_group=2)
    rejections = Rejections(tmp_path / "rejected.jsonl")
    numbers(source(tmp_path / "mode", rejections=rejections), 8)
    assert len(rejections.seen) == 4


def test_a_list_of_rejected_rows_that_a_full_disk_cut_off_can_be_continued(folder, tmp_path):
    listed = tmp_path / "rejected.jsonl"
    listed.write_text('{"file": "a", "group": 0, "row": 1, "reason": "x"}\n{"file": "b", "gro')
    assert Rejections(listed).seen == {("a", 0, 1)}


def test_a_drawn_row_can_be_rejected_afterwards(folder):
    rejections = Rejections()
    rows = source(folder, rejections=rejections)
    rows.draw()
    rows.reject_last("too long")
    assert len(rejections.seen) == 1


def test_orders_differ_between_row_groups_and_epochs(tmp_path):
    write(tmp_path, [thinking(n) for n in range(40)], per_group=20)
    rows = source(tmp_path)
    epochs = [numbers(rows, 40) for _ in range(3)]
    halves = {tuple(np.array(half) % 20) for epoch in epochs for half in (epoch[:20], epoch[20:])}
    assert len(halves) == 6


def test_bytes_that_are_no_text_are_a_broken_row_and_not_the_end_of_the_run(tmp_path):
    rows = [json.dumps(thinking(1)).encode(), b"\xff\xfe\xff", None]
    for name, kind in (("a", pa.binary()), ("b", pa.string()), ("c", pa.large_string())):
        column = pa.array(rows, pa.binary())
        table = pa.table({"conversation": pa.Array.from_buffers(kind, 3, column.buffers()) if name == "b" else column})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    rejections = Rejections()
    assert numbers(source(tmp_path, rejections=rejections), 3) == [1, 1, 1]
    assert len(rejections.seen) >= 3


def test_a_column_of_another_type_is_made_of_broken_rows(tmp_path):
    pq.write_table(pa.table({"conversation": [[1, 2], [3]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no usable row"):
        source(tmp_path).draw()


def test_a_row_is_listed_once_when_the_run_is_resumed_from_another_folder(folder, tmp_path, monkeypatch):
    listed = tmp_path / "rejected.jsonl"
    monkeypatch.chdir(tmp_path)
    numbers(source(folder.relative_to(tmp_path), rejections=Rejections(listed)), 9)
    monkeypatch.chdir(folder)
    numbers(source(folder, rejections=Rejections(listed)), 9)
    assert len(listed.read_text().splitlines()) == 1


def test_a_list_that_was_cut_off_goes_on_in_a_line_of_its_own(folder, tmp_path):
    listed = tmp_path / "rejected.jsonl"
    listed.write_text('{"file": "b", "gro')
    numbers(source(folder, rejections=Rejections(listed)), 9)
    assert len(Rejections(listed).seen) == 1

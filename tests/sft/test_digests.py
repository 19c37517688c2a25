"""Hashes of whole files are computed once, and again when a file changes."""

import os

from sft import digests
from sft.digests import FileDigests


def test_a_file_is_read_once_by_all_processes_and_again_when_it_has_changed(tmp_path, monkeypatch):
    file, kept, read = tmp_path / "a", tmp_path / "kept.json", []
    file.write_bytes(b"first")
    plain = digests._sha256
    monkeypatch.setattr(digests, "_sha256", lambda path: read.append(path) or plain(path))
    (before,) = FileDigests(kept).of([file])
    assert FileDigests(kept).of([file]) == [before] and read == [file]
    file.write_bytes(b"other")
    os.utime(file, ns=(0, 1))  # the same size, another time
    assert FileDigests(kept).of([file]) != [before] and len(read) == 2


def test_a_line_says_that_large_files_are_read_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MANY_BYTES", 5)
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"12")
    told = []
    FileDigests(tmp_path / "kept.json", told.append).of([tmp_path / "a"])
    assert told == []
    for _ in range(2):
        FileDigests(None, told.append).of([tmp_path / "a", tmp_path / "b"])
    FileDigests(tmp_path / "kept.json", told.append).of([tmp_path / "a", tmp_path / "b"])  # 2 bytes are new
    assert told == [f"{tmp_path}: reading 0 GB once, to notice later if data have changed"] * 2


def test_a_damaged_list_of_hashes_is_made_again(tmp_path):
    file, kept = tmp_path / "a", tmp_path / "kept.json"
    file.write_bytes(b"first")
    known = FileDigests(kept).of([file])
    for damage in ("{", "[]", '{"x": 3}'):
        kept.write_text(damage)
        assert FileDigests(kept).of([file]) == known

"""Answers are kept in memory and on disk, and what is damaged there is no answer."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.answer_cache import AnswerCache, keep, read_kept
from rewards.base import ScorerUnavailable

NAME = "ab" + "0" * 62


def test_the_oldest_answers_leave_memory_and_stay_on_disk(tmp_path):
    cache = AnswerCache(2, tmp_path)
    for number in range(4):
        cache.put(f"name{number}", number / 4, "Is it red?")
    assert len(cache) == 2
    assert [AnswerCache(0, tmp_path).get(f"name{number}") for number in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert [AnswerCache(2, None).get("name0"), cache.get("name9")] == [None, None]
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("content", [
    "", "{", '{"score": 2}', '{"score": -0.1}', '{"score": true}', '{"score": null}', '{"score": NaN}', "[1]",
    '{"score": "0.5"}', "{}",
])  # fmt: skip
def test_a_damaged_file_is_no_answer_and_is_replaced(tmp_path, content):
    cache = AnswerCache(0, tmp_path)
    cache.put(NAME, 0.5, "Is it red?")
    path = tmp_path / "ab" / f"{NAME}.json"
    assert read_kept(path) == {"score": 0.5, "question": "Is it red?"}
    path.write_text(content)
    assert cache.get(NAME) is None
    cache.put(NAME, 0.25, "Is it red?")
    assert cache.get(NAME) == 0.25


def test_many_writers_of_one_file_leave_a_whole_one(tmp_path):
    """Each reads either nothing or a whole answer, also while another one writes."""
    scores = [number / 7 for number in range(8)]

    def write_and_read(score):
        caches = AnswerCache(0, tmp_path), AnswerCache(0, tmp_path)
        for _ in range(20):
            caches[0].put(NAME, score, "Is it red?" * 1000)
            assert caches[1].get(NAME) in scores

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_and_read, scores))
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [f"{NAME}.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScorerUnavailable, match="file.*cannot be written.*name another folder"):
        keep(tmp_path / "file" / "x.json", {})

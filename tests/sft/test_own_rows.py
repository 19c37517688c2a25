import pytest

from sft.dataset import Rejections, RowSource
from sft.own_rows import ROWS_PER_GROUP, is_whole, refined_row, write_parquet


def test_a_trajectory_is_whole_if_it_has_two_images_and_no_text_was_cut_off_or_is_empty(world):
    (drawn,) = world.sample(1)
    drawn.segments = drawn.segments[:4]
    for text in drawn.texts:
        text.finished, text.text = True, "words"
    assert is_whole(drawn)
    drawn.texts[1].finished = False
    assert not is_whole(drawn)
    drawn.texts[1].finished, drawn.texts[0].text = True, " "
    assert not is_whole(drawn)
    drawn.texts[0].text, drawn.segments = "words", drawn.segments[:2]
    assert not is_whole(drawn)


def test_a_trajectory_of_another_length_is_no_row(world):
    (drawn,) = world.sample(1)
    drawn.segments = drawn.segments[:2]
    with pytest.raises(ValueError, match="1 images; a row of this kind has two"):
        refined_row(drawn)


def test_rows_come_in_groups_and_none_is_lost(tmp_path):
    rows = [f'[{{"role": "user", "content": "row {n}", "need_loss": true}}]' for n in range(ROWS_PER_GROUP + 3)]
    write_parquet(tmp_path / "own", iter(rows))
    source = RowSource(tmp_path / "own", 0, Rejections())
    assert len(source.groups) == 2 and not list(tmp_path.rglob("*.tmp"))
    assert {source.draw()[0].text for _ in rows} == {f"row {n}" for n in range(ROWS_PER_GROUP + 3)}

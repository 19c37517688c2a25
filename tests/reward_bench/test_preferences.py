"""Preference sets in the layouts in which they are published, and in the own one."""

import io
import json

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.reward_bench.images import read_images
from irg_rl.reward_bench.preferences import read_preferences, write_preferences
from irg_rl.task import Ranking
from irg_rl.trajectory import Prompt


def image(level):
    return np.full((4, 4, 3), level, np.uint8)


def png(level):
    buffer = io.BytesIO()
    PILImage.fromarray(image(level)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path):
    """Images 0.png .. 3.png in the folder test, whose level is 10 times their number."""
    (tmp_path / "test").mkdir()
    for number in range(4):
        (tmp_path / "test" / f"{number}.png").write_bytes(png(10 * number))
    return tmp_path


def told(pairs):
    """(level of the first image, level of the second one, preferred)"""
    return [(int(p.first.read().mean()), int(p.second.read().mean()), p.preferred) for p in pairs]


def dump(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_rankings_of_hpdv2_become_pairs_and_rank_0_is_best(files):
    entry = {"prompt": "a cat", "image_path": ["1.png", "2.png", "3.png"], "rank": [1, 0, 1]}
    found = read_preferences(dump(files, "test.json", [entry]))
    assert told(found.pairs) == [(10, 20, 0.0), (10, 30, 0.5), (20, 30, 1.0)]
    assert found.layout == "HPDv2" and found.pairs[0].first.prompt.text == "a cat"


def test_training_pairs_of_hpdv2_mark_the_better_image_with_1(files):
    entry = {"prompt": "a cat", "file_path": ["1.png", "2.png"], "human_preference": [0, 1], "user_hash": "x"}
    assert told(read_preferences(dump(files, "train.json", [entry])).pairs) == [(10, 20, 0.0)]


def mmrb2(first, second, chosen, prompt=(("text", "a cat"),), **names):
    models = {"model_name": "m"} | names
    return {
        "id": "1", "prompt_content": [list(part) for part in prompt], "chosen": chosen,
        "response_a": {"response_content": [["image", first]], **models},
        "response_b": {"response_content": [["image", second]], "model_name": "m"},
    }  # fmt: skip


def test_mmrb2_keeps_pairs_of_one_text_and_two_images_and_counts_the_others(files):
    edit = mmrb2("0.png", "1.png", "A", prompt=(("image", "x.png"), ("text", "make it red")))
    pairs = [mmrb2("1.png", "2.png", "B"), mmrb2("1.png", "3.png", "A", model_name="n"), edit]
    found = read_preferences(dump(files, "t2i.json", {"pairs": pairs}))
    assert told(found.pairs) == [(10, 20, 0.0), (10, 30, 1.0)]
    assert [pair.of_one_model for pair in found.pairs] == [True, False]
    assert (found.layout, found.skipped) == ("MMRB2", 1)


def test_the_benchmarks_other_names_of_the_fields_are_read_too(files):
    entry = mmrb2("1.png", "2.png", "A")
    entry["human_preference"] = entry.pop("chosen")
    assert told(read_preferences(dump(files, "t2i.json", {"pairs": [entry]})).pairs) == [(10, 20, 1.0)]


def test_pick_a_pic_holds_its_images_and_halves_are_ties(tmp_path):
    rows = {
        "caption": ["a cat"] * 4, "jpg_0": [png(1)] * 4, "jpg_1": [png(2)] * 4, "label_0": [1.0, 0.0, 0.5, 1.0],
        "has_label": [True, True, True, False], "model_0": ["m"] * 4, "model_1": ["m"] * 4,
    }  # fmt: skip
    parquet.write_table(arrow.table(rows), tmp_path / "pick.parquet")
    found = read_preferences(tmp_path / "pick.parquet")
    assert told(found.pairs) == [(1, 2, 1.0), (1, 2, 0.0), (1, 2, 0.5)]
    assert all(pair.of_one_model for pair in found.pairs)


def test_what_a_world_makes_is_read_back_with_its_metadata(tmp_path):
    images = (image(5), image(6), image(7))
    ranking = Ranking(Prompt("p", "a cat", {"tag": "counting"}), images, (1.0, 3.0, 3.0), (1.0, 1.0, 1.0))
    assert write_preferences(tmp_path / "made", [ranking]) == 3
    images = read_images(tmp_path / "made")  # `irg-rl reward compare RUN made --pairs made` asks about the same images
    assert len(images) == len(ranking.images) and {image.prompt.text for image in images} == {ranking.prompt.text}
    assert len({image.group for image in images}) == 1 and images[0].prompt.metadata == ranking.prompt.metadata
    assert np.array_equal(images[0].read(), ranking.images[0])
    found = read_preferences(tmp_path / "made")
    assert told(found.pairs) == [(5, 6, 0.0), (5, 7, 0.0), (6, 7, 0.5)]
    assert found.pairs[0].first.prompt.metadata == {"tag": "counting"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '{"x": 1}', "neither a list"),
        ("a.json", "[]", "no pairs of two images"),
        ("a.json", '[{"prompt": "a cat", "image_path": ["1.png"], "rank": [1, 2]}]', "entry 0: needs `prompt`"),
        ("a.json", '[{"prompt": "a cat", "image_path": ["1.png", "2.png"], "rank": ["1", "2"]}]', "entry 0"),
        ("a.json", '[{"image_path": ["1.png", "2.png"], "rank": [1, 2]}]', "needs a string `prompt`"),
        ("a.json", '{"pairs": [{"id": 1}]}', "pair 0: not a pair of MMRB2"),
        ("a.jsonl", '{"prompt": "a cat", "a": "1.png", "b": "2.png", "preferred": "c"}', "line 1: `preferred`"),
        ("a.jsonl", '{"prompt": "a cat", "a": "1.png"}', "line 1: needs `prompt`, and `a` and `b`"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_another_layout_is_one_line_that_names_the_place(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_preferences(tmp_path / name)


def test_a_missing_image_is_found_when_it_is_read(files):
    entry = {"prompt": "a cat", "image_path": ["1.png", "no.png"], "rank": [0, 1]}
    [pair] = read_preferences(dump(files, "test.json", [entry])).pairs
    with pytest.raises(InputError, match="no.png: cannot be read"):
        pair.second.read()

"""Images with prompts, from every layout."""

import io
import json

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.records import save_groups
from irg_rl.reward_bench.images import decode, digest_of, prompt_digest, read_images
from irg_rl.trajectory import Group, ImageSegment, Prompt, TextSegment, Trajectory


def png(level, side=4):
    buffer = io.BytesIO()
    PILImage.fromarray(np.full((side, side, 3), level, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def told(images):
    return [(image.where, image.prompt.text, image.group, int(image.read().mean())) for image in images]


def test_a_list_beside_the_images_names_prompts_metadata_and_groups(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    lines = [
        {"file_name": "0.png", "prompt": "a cat", "metadata": {"tag": "x"}, "group": 7},
        {"file_name": "1.png", "text": "a dog", "id": "d"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    found = read_images(tmp_path)
    assert told(found) == [("0.png", "a cat", "7", 0), ("1.png", "a dog", "a dog", 1)]
    assert found[0].prompt.metadata == {"tag": "x"} and found[1].prompt.id == "d"


def test_text_files_of_the_same_name_hold_the_prompts(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.txt").write_text("a cat\n")
    assert told(read_images(tmp_path)) == [("a.png", "a cat", "a cat", 1)]
    (tmp_path / "b.png").write_bytes(png(1))
    with pytest.raises(InputError, match="b.png has no prompt: write it into b.txt"):
        read_images(tmp_path)


@pytest.mark.parametrize("column", [png(9), {"bytes": png(9), "path": "x.png"}], ids=["bytes", "struct"])
def test_parquet_holds_bytes_or_structs(tmp_path, column):
    parquet.write_table(arrow.table({"image": [column], "caption": ["a cat"], "metadata": ['{"tag": "x"}']}),
                        tmp_path / "t.parquet")  # fmt: skip
    for place in (tmp_path, tmp_path / "t.parquet"):
        [found] = read_images(place)
        assert (found.prompt.text, found.prompt.metadata, int(found.read().mean())) == ("a cat", {"tag": "x"}, 9)


def image_segment(turn, level):
    state = torch.zeros(0, 1, 1)
    return ImageSegment(turn, torch.full((4, 4, 3), level, dtype=torch.uint8), torch.zeros(1, 1), state, state, state,
                        torch.zeros(0), torch.zeros(0), torch.zeros(0))  # fmt: skip


def test_groups_are_siblings_by_turn_and_a_shared_image_is_read_once(tmp_path):
    text = TextSegment(0, torch.zeros(0, dtype=torch.long), torch.zeros(0), "think", True)
    first = image_segment(0, 1)
    prompt = Prompt("p", "a cat", {"tag": "x"})
    samples = [Trajectory(prompt, i, [text, first, image_segment(1, 2 + i)]) for i in range(2)]
    save_groups(tmp_path / "step-000001", [Group(5, prompt, samples)])
    found = read_images(tmp_path)
    assert [(i.where, i.cell, int(i.read().mean())) for i in found] == [
        ("step-000001/5/sample0/turn0", "step-000001/5 / turn 0", 1),
        ("step-000001/5/sample0/turn1", "step-000001/5 / turn 1", 2),
        ("step-000001/5/sample1/turn1", "step-000001/5 / turn 1", 3),
    ]
    assert found[0].prompt == prompt


@pytest.mark.parametrize("data", [b"", b"no picture", png(1, 64)[:-40]], ids=["empty", "text", "cut off"])
def test_a_broken_or_cut_off_image_says_so_when_it_is_read(data):
    with pytest.raises(InputError, match="here: the image cannot be decoded"):
        decode(data, "here")


def test_an_image_with_too_many_pixels_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr("irg_rl.reward_bench.images.MOST_PIXELS", 100)
    with pytest.raises(InputError, match="here: 64 x 64 pixels are more than 100"):
        decode(png(1, 64), "here")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("prompts.jsonl", '{"file_name": "a.png"}', "line 1: needs a string `prompt`"),
        ("prompts.jsonl", '{"prompt": "a cat"}', "line 1: needs a string `file_name`"),
        ("prompts.jsonl", '{"file_name": "a.png", "prompt": "a", "metadata": 7}', "`metadata` is 7"),
        ("prompts.jsonl", "[", "not JSON"),
        ("t.parquet", "x", "not a readable parquet"),
        ("readme.md", "x", "no images with prompts"),
    ],
)
def test_another_layout_is_one_line_that_names_the_place(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_images(tmp_path)


def test_hashes_tell_pixels_shapes_and_prompts_apart():
    a = np.zeros((2, 3, 3), np.uint8)
    assert digest_of(a) != digest_of(a.reshape(3, 2, 3)) and digest_of(a) == digest_of(a.copy())
    assert prompt_digest(Prompt("1", "cat", {"n": 1})) == prompt_digest(Prompt("2", "cat", {"n": 1}))
    assert prompt_digest(Prompt("1", "cat", {"n": 1})) != prompt_digest(Prompt("1", "cat", {"n": 2}))

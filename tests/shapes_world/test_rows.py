import json
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from irg_rl.learning_modes import (
    IMPROVING_FULL,
    IMPROVING_GENERATION,
    IMPROVING_UNDERSTANDING,
    INITIAL_FULL,
    INITIAL_GENERATION,
    INITIAL_UNDERSTANDING,
    MODES,
)
from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.edits import plan_edits
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.rows import (
    RowMix,
    decode_png,
    encode_png,
    make_row,
    own_image_rows,
    write_mode,
    write_rows,
)
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import is_stop, parse_reflection, reflection_correct, think_text
from tests.shapes_world.worlds import PROMPTS, changed_cells

BY_TEXT = {prompt.text: prompt for prompt in PROMPTS}
SHALLOW = RowMix(deep_share=0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), PROMPTS, dict.fromkeys(MODES, 200), seed=4)


def _rows(path):
    return [json.loads(text) for text in pq.read_table(path)["conversation"].to_pylist()]


def _parts(row):
    return [part for turn in row if turn["role"] == "assistant" for part in turn["content"]]


def _kind(part):
    flags = "".join(letter for letter, name in zip("lav", ("need_loss", "need_vae", "need_vit")) if part.get(name))
    return part["type"] + ("-" + flags if flags else "")


def test_every_mode_has_its_folder_and_several_row_groups(files):
    for mode, path in files.items():
        assert path.parent.name == mode
        assert pq.ParquetFile(path).num_row_groups > 4 and pq.read_table(path).column_names == ["conversation"]
        assert len(_rows(path)) == 200


@pytest.mark.parametrize(
    "mode, right, mended",
    [
        (INITIAL_UNDERSTANDING, ["image-av", "text-l"], None),
        (INITIAL_GENERATION, ["text-l"], None),
        (INITIAL_FULL, ["text-l", "image-l"], None),
        (IMPROVING_UNDERSTANDING, ["image-av", "text-l"], ["image-av", "image-av", "text-l"]),
        (IMPROVING_GENERATION, ["text", "image-av", "text-l"], ["text", "image-av", "text-l"]),
        (IMPROVING_FULL, ["text", "image-av", "text-l"], ["text", "image-av", "text-l", "image-l"]),
    ],
)
def test_the_flags_of_a_row_are_those_of_its_mode(mode, right, mended):
    rng = Random(1)
    for prompt in PROMPTS[:60]:
        row = make_row(mode, prompt, rng, SHALLOW)
        assert row[0] == {"role": "user", "content": prompt.text, "need_loss": False}
        stopped = any(is_stop(part["content"]) for part in _parts(row))
        assert [_kind(part) for part in _parts(row)] == (right if stopped or mended is None else mended)


def test_understanding_rows_ask_a_question_after_the_pictures(files):
    for mode in (INITIAL_UNDERSTANDING, IMPROVING_UNDERSTANDING):
        assert all(
            [turn["role"] for turn in row] == ["user", "assistant", "user", "assistant"] for row in _rows(files[mode])
        )


def test_a_quarter_of_the_improving_rows_stop_without_a_second_picture(files):
    for mode in (IMPROVING_UNDERSTANDING, IMPROVING_GENERATION):
        stopped = [row for row in _rows(files[mode]) if is_stop(_parts(row)[-1]["content"])]
        assert 0.15 < len(stopped) / 200 < 0.35
        assert all(sum(part["type"] == "image" for part in _parts(row)) == 1 for row in stopped)


def test_initial_pictures_are_right_and_thinks_are_the_teacher_s(files):
    for row in _rows(files[INITIAL_FULL]):
        think, image = _parts(row)
        wanted = BY_TEXT[row[0]["content"]].metadata
        assert think["content"] == think_text(wanted) and judge(read(decode_png(image["content"])), wanted).correct


def test_reflections_are_true_and_targets_differ_only_where_they_say(files):
    for row in _rows(files[IMPROVING_FULL]):
        wanted = BY_TEXT[row[0]["content"]].metadata
        parts = _parts(row)[1:]
        for before, said, after in zip(parts[::2], parts[1::2], [*parts[2::2], None]):
            first, parsed = decode_png(before["content"]), parse_reflection(said["content"])
            assert reflection_correct(parsed, read(first), wanted)
            assert (after is None) == parsed.stop
            if after is not None:
                named = {edit.cell for edit in parsed.edits} | {edit.to for edit in parsed.edits}
                assert changed_cells(first, decode_png(after["content"])) <= named


def test_deep_rows_use_a_refined_picture_as_target_and_as_condition():
    deep = RowMix(stop_share=0.0, deep_share=1.0, max_fixes=1)
    rows = [make_row(IMPROVING_FULL, prompt, Random(3), deep) for prompt in PROMPTS]
    row = next(row for row in rows if len(_parts(row)) >= 6)
    kinds = [_kind(part) for part in _parts(row)]
    assert kinds[:5] == ["text", "image-av", "text-l", "image-lav", "text-l"]
    assert is_stop(_parts(row)[-1]["content"]) or kinds[-1] == "image-l"
    assert max(len(_parts(row)) for row in rows) == 8  # think, first picture, three reflections with their pictures


def test_png_round_trip_is_exact():
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    assert np.array_equal(decode_png(encode_png(picture)), picture)


def test_the_same_seed_writes_the_same_rows(tmp_path):
    one, same, other = (
        _rows(write_rows(tmp_path / name, PROMPTS, {IMPROVING_FULL: 20}, seed)[IMPROVING_FULL])
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same != other


def _repairs(picture, wanted):
    return len(plan_edits(read(picture), wanted, Random(0), None))


def test_own_pictures_become_stop_rows_or_are_mended_in_place():
    rng = Random(5)
    prompts = PROMPTS[:80]
    scenes = [sample_scene(prompt.metadata, rng) for prompt in prompts]
    scenes[::2] = [corrupt(scene, p.metadata, rng, 2) for scene, p in zip(scenes[::2], prompts[::2])]
    grain = np.random.default_rng(0).normal(0, 5, (80, 24, 24, 3))
    images = np.clip(np.stack([render(scene) for scene in scenes]) + grain, 0, 255).astype(np.uint8)
    rows = own_image_rows(images, prompts, rng, mix=SHALLOW)
    assert rows.keys() == {IMPROVING_FULL, IMPROVING_GENERATION}
    for index, row in enumerate(rows[IMPROVING_FULL]):
        parts = _parts(row)
        assert np.array_equal(decode_png(parts[1]["content"]), images[index])
        assert is_stop(parts[2]["content"]) == (len(parts) == 3) == (index % 2 == 1)
        if len(parts) == 4:
            target = decode_png(parts[3]["content"])
            assert 1 <= len(changed_cells(images[index], target)) <= 4
            wanted = prompts[index].metadata
            assert _repairs(target, wanted) < _repairs(images[index], wanted)


def test_own_pictures_and_prompts_must_match():
    with pytest.raises(ValueError, match="2 images for 1 prompts"):
        own_image_rows(np.zeros((2, 24, 24, 3), np.uint8), PROMPTS[:1], Random(0))


def test_an_unknown_mode_is_refused_and_nothing_is_left_behind(tmp_path):
    with pytest.raises(ValueError, match="unknown mode 'full'.*improving_full_learning"):
        write_mode(tmp_path, "full", [])
    with pytest.raises(ValueError, match="unknown mode 'full'"):
        write_rows(tmp_path, PROMPTS, {"full": 2}, 0)
    with pytest.raises(ValueError, match="no prompts"):
        write_rows(tmp_path, [], {INITIAL_FULL: 2}, 0)
    assert list(tmp_path.rglob("*")) == []

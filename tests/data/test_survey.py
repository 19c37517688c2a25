"""What `data check` and `data stats` find in a folder, whoever wrote it."""

import random

import pytest

from irg_rl.data.survey import FORMS, mode_folders, origins, survey
from irg_rl.errors import InputError
from irg_rl.learning_modes import IMPROVING_FULL, IMPROVING_GENERATION, INITIAL_FULL, INITIAL_UNDERSTANDING, MODES
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.rows import make_row, write_mode
from sft.dataset import DataError
from tests.sft.material import (
    assistant,
    drawn,
    drawn_broken,
    image,
    improving_full,
    initial_full,
    seen,
    text,
    thinking,
    user,
    write,
)


@pytest.mark.parametrize("mode", MODES)
def test_the_rows_of_the_shapes_world_have_the_forms_of_their_modes(tmp_path, mode):
    rng = random.Random(3)
    rows = [make_row(mode, prompt, rng) for prompt in make_prompts(30, "train", seed=2)]
    write_mode(tmp_path, mode, rows)
    found = survey(tmp_path / mode)
    assert (found.rows, found.broken, found.odd) == (30, [], [])


@pytest.mark.parametrize(("mode", "row"), [
    (INITIAL_FULL, thinking(1)),
    (INITIAL_FULL, [user("red"), assistant(drawn(1))]),
    (IMPROVING_FULL, initial_full(1)),
    (IMPROVING_FULL, [user("red"), assistant(seen(1), text("more"), drawn(2))]),
    (IMPROVING_GENERATION, improving_full(1)),
    (INITIAL_UNDERSTANDING, [user("red"), assistant(image(1, need_loss=True, need_vit=True)), user("why"),
                             assistant(text("because"))]),
])  # fmt: skip
def test_a_row_of_another_form_is_named_but_not_broken(tmp_path, mode, row):
    write(tmp_path / mode, [row])
    found = survey(tmp_path / mode)
    assert (found.usable, len(found.odd)) == (1, 1)
    assert found.odd[0].startswith("part-00000.parquet, row group 0, row 0: its form is ")
    assert FORMS[mode] in found.odd[0]


def test_broken_rows_are_named_with_their_place_and_reason(tmp_path):
    rows = [initial_full(0), "{half a row", initial_full(2), initial_full(3), "[]"]
    write(tmp_path / INITIAL_FULL, rows, per_group=3)
    found = survey(tmp_path / INITIAL_FULL)
    assert (found.rows, found.usable) == (5, 3)
    assert [problem.split(":")[0] for problem in found.broken] == [
        "part-00000.parquet, row group 0, row 1", "part-00000.parquet, row group 1, row 1"
    ]  # fmt: skip
    assert "not JSON" in found.broken[0]


def test_a_row_with_a_good_header_and_damaged_pixels_is_broken(tmp_path):
    write(tmp_path / INITIAL_FULL, [initial_full(0), drawn_broken(1), initial_full(2)])
    found = survey(tmp_path / INITIAL_FULL)
    assert (found.rows, found.usable, found.sizes) == (3, 2, {"16x16": 2})
    [problem] = found.broken
    assert problem.startswith("part-00000.parquet, row group 0, row 1: turn 1, part 1: the image can't be decoded")


def test_numbers_of_texts_images_and_prompts(tmp_path):
    stop = [user("row0"), assistant(text("plan", need_loss=False), seen(0), text("all is there : nothing to change ."))]
    write(tmp_path / IMPROVING_FULL, [improving_full(0, "a"), improving_full(1, "b"), improving_full(1, "b"), stop])
    found = survey(tmp_path / IMPROVING_FULL)
    assert (found.with_target, found.stops, len(found.prompts)) == (3, 1, 3)
    assert found.sizes == {"16x16": 7}
    assert (found.words_at(50), found.words_at(100)) == (4, 8)


def test_a_reflection_that_keeps_a_part_of_the_image_is_no_stop(tmp_path):
    keeps = text("nothing to change in the sky , but the dog must be red .")
    write(tmp_path / IMPROVING_FULL, [[user("row0"), assistant(text("plan", need_loss=False), seen(0), keeps)]])
    assert survey(tmp_path / IMPROVING_FULL).stops == 0


def test_a_folder_of_an_own_mode_is_read_without_a_form(tmp_path):
    write(tmp_path / "mine", [thinking(0)])
    found = survey(tmp_path / "mine")
    assert (found.is_known, found.odd, found.usable) == (False, [], 1)


def test_folders_are_found_whether_they_hold_modes_or_are_one(tmp_path):
    write(tmp_path / "IRG" / INITIAL_FULL, [initial_full(0)])
    (tmp_path / "IRG" / "notes").mkdir()
    assert mode_folders(tmp_path / "IRG") == [tmp_path / "IRG" / INITIAL_FULL]
    assert mode_folders(tmp_path / "IRG" / INITIAL_FULL) == [tmp_path / "IRG" / INITIAL_FULL]
    with pytest.raises(InputError, match="no folder with parquet files"):
        mode_folders(tmp_path / "IRG" / "notes")
    with pytest.raises(InputError, match="is no folder"):
        mode_folders(tmp_path / "nowhere")


def test_a_file_that_is_no_parquet_ends_the_survey(tmp_path):
    write(tmp_path / INITIAL_FULL, [initial_full(0)]).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="not a readable parquet file"):
        survey(tmp_path / INITIAL_FULL)


def test_rows_without_columns_of_their_origin_have_none(tmp_path):
    write(tmp_path / INITIAL_FULL, [initial_full(0)])
    assert origins(tmp_path / INITIAL_FULL) is None

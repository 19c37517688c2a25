"""Texts and images of an evaluation in one file."""

import numpy as np
import pytest

from irg_rl.report.kept import kept_path, load_kept, save_kept
from irg_rl.report.samples import SampledTrajectory, SampledTurn
from irg_rl.view.shown import png_size


def sample(row: int, side: int = 8) -> SampledTrajectory:
    image = np.random.default_rng(row).integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)
    turns = [SampledTurn(f"think {row}", image, row % 2 == 0, 0.5, {"hps": 0.25, "clip": None}), SampledTurn("stop")]
    return SampledTrajectory(f"p{row}", f"prompt {row}", "colors", turns, True)


def test_what_is_kept_comes_back(tmp_path):
    path = kept_path(tmp_path, "rl")
    assert save_kept(path, 3, {"real": sample, "redraw": sample}, 2**20) == 3
    first, second = (entry for entry in load_kept(path, [1]) if entry["arm"] == "redraw")
    assert (first["prompt_id"], first["text"], first["correct"], first["score"]) == ("p1", "think 1", False, 0.5)
    assert first["rewards"] == {"hps": 0.25, "clip": None} and png_size(first["image"]) == (16, 8)
    assert (second["turn"], second["text"], second["image"], second["stopped"]) == (1, "stop", None, True)


def test_the_limit_of_bytes_keeps_the_first_trajectories_of_every_arm(tmp_path):
    path = kept_path(tmp_path, "rl")
    save_kept(path, 4, {"real": sample, "redraw": sample}, 2**20)
    one = sum(len(e["image"] or b"") + len(e["text"]) for e in load_kept(path, [0]))
    assert save_kept(path, 4, {"real": sample, "redraw": sample}, int(2.5 * one)) == 2
    kept = load_kept(path, range(4))
    assert {(e["row"], e["arm"]) for e in kept} == {(row, arm) for row in (0, 1) for arm in ("real", "redraw")}
    assert save_kept(path, 4, {"real": sample}, 10) == 0 and not path.exists()


def test_a_file_of_another_kind_is_an_error_that_a_reader_can_catch(tmp_path):
    path = tmp_path / "rl.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError):
        load_kept(path, [0])


def test_only_the_columns_that_are_asked_for_are_read(tmp_path):
    save_kept(tmp_path / "rl.parquet", 2, {"real": sample}, 2**20)
    assert load_kept(tmp_path / "rl.parquet", [1], ["row", "text"]) == [
        {"row": 1, "text": "think 1"}, {"row": 1, "text": "stop"}
    ]  # fmt: skip

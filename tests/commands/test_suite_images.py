"""`irg-rl generate --suite` with a tiny model: trees per turn, resumable, whatever the batch and the worker."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.commands.suite_images import fitted
from irg_rl.model.folder import save_folder
from rollouts.request import StopPhrase
from tests.suites.layouts import LAYOUTS, SIDE_FILES
from tests.suites.official import write_official

FAST = ("--points", 3, "--max-text-tokens", 4, "--preset", "cfg-free", "--size", 16, 16, "--model-name", "mymodel")


@pytest.fixture(scope="module")
def model(world, tmp_path_factory) -> Path:
    """A folder as BAGEL is released."""
    folder = tmp_path_factory.mktemp("weights") / "BAGEL-tiny"
    save_folder(world.model, world.vae, world.tokenizer, folder)
    return folder


@pytest.fixture
def draw(irg_rl, model, tmp_path):
    """draw("geneval", "out", *options) -> the folder written."""

    def call(name: str, out: str = "out", *options: object) -> Path:
        prompts = write_official(name, tmp_path / "official")
        answer = irg_rl("generate", model, "--suite", name, "--prompts", prompts, "--out", tmp_path / out, *FAST,
                        *options)  # fmt: skip
        assert answer.code == 0, answer.err
        return tmp_path / out

    return call


def images(tree: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tree)) for path in tree.rglob("*") if path.suffix in (".png", ".webp", ".jpeg", ".jpg")
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["geneval", "wise", "tiif", "genai-bench", "oneig-en"])
def test_every_turn_is_a_tree_in_the_official_layout(draw, name):
    out = draw(name)
    for tree in ("turn0", "turn1", "final"):
        assert images(out / tree) == LAYOUTS[name]
        others = sorted(str(path.relative_to(out / tree)) for path in (out / tree).rglob("*.jsonl"))
        assert others == SIDE_FILES.get(name, [])
    settings = json.loads((out / "suite.json").read_text())
    assert (settings["suite"], settings["turns"], settings["preset"]) == (name, 2, "cfg-free")


def test_what_is_there_whole_is_not_drawn_again(draw):
    out = draw("geneval")
    kept, cut, gone = (out / "turn1" / path for path in LAYOUTS["geneval"][:3])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (kept, cut, gone)}
    data = cut.read_bytes()
    cut.unlink()  # final/ has the same file by a hard link
    cut.write_bytes(data[:-7])
    gone.unlink()
    draw("geneval")
    assert kept.stat().st_mtime_ns == before[kept][1]
    assert [path.read_bytes() for path in (cut, gone)] == [before[path][0] for path in (cut, gone)]


def test_a_call_that_was_killed_while_writing_goes_on(draw):
    out = draw("wise")
    whole = {path: (out / "turn0" / path).read_bytes() for path in LAYOUTS["wise"]}
    texts = out / "texts.jsonl"
    lines = texts.read_text().splitlines()
    texts.write_text("\n".join(lines[:4]) + "\n" + lines[4][:25])
    draw("wise")
    assert {path: (out / "turn0" / path).read_bytes() for path in LAYOUTS["wise"]} == whole
    records = [json.loads(line) for line in texts.read_text().splitlines() if line.endswith("}")]
    assert sorted(record["path"] for record in records) == LAYOUTS["wise"]


def test_images_depend_neither_on_the_batch_nor_on_the_worker(draw):
    whole = draw("geneval", "whole")
    for number in range(3):
        draw("geneval", "parts", "--shard", f"{number}/3")
    parts = whole.with_name("parts")
    assert images(parts / "final") == images(whole / "final")
    far = [np.abs(pixels(whole / "final" / p).astype(int) - pixels(parts / "final" / p)).max() for p in
           images(whole / "final")]  # fmt: skip
    assert max(far) <= 1, "batches of another shape round the last bits differently"
    assert len(json.loads((parts / "stops.json").read_text())["stops"]) == 0
    assert json.loads((parts / "stops.json").read_text())["trajectories"] == 12


def test_prompts_and_samples_differ_in_their_noise(draw):
    out = draw("geneval")
    drawn = [pixels(out / "turn0" / path).tobytes() for path in LAYOUTS["geneval"]]
    assert len(set(drawn)) == len(drawn)


def test_where_a_trajectory_stopped_is_written_down(draw, monkeypatch):
    monkeypatch.setattr(StopPhrase, "__call__", lambda self, text: True)
    out = draw("wise", "out", "--turns", 3)
    stops = json.loads((out / "stops.json").read_text())
    assert stops["trajectories"] == stops["stopped"] == 7
    assert {stop["last"] for stop in stops["stops"]} == {"turn0"}
    first = (out / "turn0" / "1.png").read_bytes()
    assert all((out / tree / "1.png").read_bytes() == first for tree in ("turn1", "turn2", "final"))


def test_an_edit_begins_with_its_source_at_its_own_shape(draw, tmp_path):
    (tmp_path / "origin" / "animal").mkdir(parents=True)
    for name, size in (("a.jpg", (40, 20)), ("b.jpg", (20, 20))):
        Image.new("RGB", size, "green").save(tmp_path / "origin" / "animal" / name)
    out = draw("imgedit", "out", "--sources", tmp_path / "origin")
    assert images(out / "turn0") == images(out / "turn1") == LAYOUTS["imgedit"]
    assert Image.open(out / "turn0" / "101.png").size == (16, 8)
    assert Image.open(out / "turn0" / "102.png").size == (16, 16)


def test_an_edit_that_the_model_calls_needless_is_its_source(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(StopPhrase, "__call__", lambda self, text: True)
    (tmp_path / "origin" / "animal").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (16, 16), (0, 128, 0)).save(tmp_path / "origin" / "animal" / name, quality=100)
    out = draw("imgedit", "out", "--sources", tmp_path / "origin")
    assert np.array_equal(pixels(out / "turn0" / "101.png"), pixels(tmp_path / "origin" / "animal" / "a.jpg"))
    assert {stop["last"] for stop in json.loads((out / "stops.json").read_text())["stops"]} == {None}


def test_an_image_folder_with_holes_is_named(irg_rl, model, tmp_path):
    (tmp_path / "origin" / "animal").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "origin" / "animal" / "a.jpg")
    answer = irg_rl("generate", model, "--suite", "imgedit", "--prompts", write_official("imgedit", tmp_path),
                    "--sources", tmp_path / "origin", "--out", tmp_path / "out", *FAST)  # fmt: skip
    assert answer.code == 1 and "lacks 1 of 2 source images, the first is animal/b.jpg of prompt 102" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_begun_with_other_settings_is_refused(draw, irg_rl, model, tmp_path):
    out = draw("wise")
    answer = irg_rl("generate", model, "--suite", "wise", "--prompts", tmp_path / "official" / "final_data.json",
                    "--out", out, *FAST, "--seed", 1)  # fmt: skip
    assert answer.code == 1 and "was begun with seed 0, not 1: use another --out" in answer.err


@pytest.mark.parametrize(("words", "says"), [
    (("--suite", "geneval"), "either --prompt TEXT, or --suite NAME with --prompts FILE"),
    (("--suite", "geneval", "--prompts", "x", "--prompt", "y"), "either --prompt TEXT, or --suite NAME"),
    (("--prompts", "x"), "either --prompt TEXT, or --suite NAME"),
    (("--suite", "genevall", "--prompts", "x"), "did you mean geneval?"),
    (("--suite", "geneval", "--prompts", "x", "--shard", "8/8"), "write K/N with K from 0 to N-1"),
    (("--suite", "geneval", "--prompts", "x", "--sources", "y"), "edits no images: leave --sources out"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(irg_rl, model, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    shutil.copy(write_official("geneval", tmp_path / "official"), tmp_path / "x")
    answer = irg_rl("generate", model, "--out", tmp_path / "out", *words)
    assert answer.code == 1 and says in answer.err
    assert not (tmp_path / "out").exists()


def test_an_edit_keeps_the_shape_of_its_source():
    assert fitted(512, 1024, 1024, 16) == (512, 1024)
    assert fitted(3000, 2000, 1024, 16) == (1024, 688)  # 682.7 is nearest to 43 x 16
    assert fitted(1, 4000, 1024, 16) == (16, 1024)

"""`irg-rl generate --suite` with a tiny model: trees per turn, resumable, whatever the batch and the worker."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.commands.suite_images import fitted
from irg_rl.model.folder import save_folder
from irg_rl.suites.catalog import SUITES
from rollouts.request import StopPhrase
from tests.suites.layouts import LAYOUTS, SIDE_FILES
from tests.suites.official import GENEVAL, json_lines, write_official
from tests.suites.test_results import geneval_line

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


@pytest.mark.parametrize("name", [name for name in LAYOUTS if not SUITES[name].edits])
def test_every_turn_is_a_tree_in_the_official_layout(draw, name):
    out = draw(name)
    for tree in ("turn0", "turn1", "final"):
        assert images(out / tree) == LAYOUTS[name]
        beside = [path for path in (out / tree).rglob("*") if path.suffix in (".json", ".jsonl")]
        others = sorted(str(path.relative_to(out / tree)) for path in beside)
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


def test_results_of_the_official_evaluator_are_read_where_the_images_lie(draw, irg_rl):
    out = draw("geneval")
    for turn, right in (("turn0", False), ("turn1", True)):
        rows = [geneval_line(n, k, right, GENEVAL[n]["prompt"]) for n in range(3) for k in range(4)]
        json_lines(out / turn / "results.jsonl", rows)
    answer = irg_rl("suite", "read", "geneval", out)
    assert answer.code == 0, answer.err
    told = "prompts read: 3 prompts, rewritten or not: original wording; file evaluation_metadata.jsonl"
    assert told in answer.out
    assert "turns 2, seed 0, preset cfg-free" in answer.out
    gained = json.loads((out / "geneval-results.json").read_text())["differences"][0]
    assert (gained["after"], gained["before"]) == ("out/turn1", "out/turn0")
    assert gained["rows"][-1]["gained"]["value"] == 1.0 and gained["rows"][-1]["left_out"] == 0


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


@pytest.mark.parametrize("content", [True, False])
def test_r3_bench_gets_the_reflection_that_led_to_each_image(draw, tmp_path, monkeypatch, content):
    monkeypatch.setattr(StopPhrase, "__call__", lambda self, text: content)
    (tmp_path / "images").mkdir()
    for name in ("c_5.png", "c_6.png"):
        Image.new("RGB", (16, 16), "green").save(tmp_path / "images" / name)
    out = draw("r3-bench", "out", "--sources", tmp_path)
    assert images(out / "turn0") == images(out / "turn1") == LAYOUTS["r3-bench"]
    records = [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]
    texts = {record["prompt"]: record["samples"][0]["texts"] for record in records}
    for turn in (0, 1):
        path = out / f"turn{turn}" / "output" / "reflection" / "mymodel" / "reflection_res.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(row["idx"], row["index"], row["answer"]) for row in rows] == [(5, 5, False), (6, 6, True)]
        assert [row["model_reflection"]["answer"] for row in rows] == [content, content]
        spoken = 1 if content else turn + 1
        told = [row["model_reflection"]["explanation"] for row in rows]
        assert told == [texts[i][spoken]["text"] for i in ("5", "6")]


def test_an_image_folder_with_holes_is_named(irg_rl, model, tmp_path):
    (tmp_path / "origin" / "animal").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "origin" / "animal" / "a.jpg")
    answer = irg_rl("generate", model, "--suite", "imgedit", "--prompts", write_official("imgedit", tmp_path),
                    "--sources", tmp_path / "origin", "--out", tmp_path / "out", *FAST)  # fmt: skip
    assert answer.code == 1 and "lacks 1 of 2 source images, the first is animal/b.jpg of prompt 102" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_source_image_that_was_cut_off_is_named_before_anything_is_drawn(irg_rl, model, tmp_path):
    (tmp_path / "origin" / "animal").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (16, 16)).save(tmp_path / "origin" / "animal" / name)
    path = tmp_path / "origin" / "animal" / "b.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    answer = irg_rl("generate", model, "--suite", "imgedit", "--prompts", write_official("imgedit", tmp_path),
                    "--sources", tmp_path / "origin", "--out", tmp_path / "out", *FAST)  # fmt: skip
    said = " ".join(answer.err.split())
    assert answer.code == 1 and "b.jpg, the source image of prompt 102, cannot be decoded" in said
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

"""`irg-rl data` as the shell sees it: a tiny model draws, servers write and judge, and other data are looked at."""

import json

import numpy as np
import pytest
import yaml

from irg_rl.data.survey import survey
from irg_rl.learning_modes import IMPROVING_FULL, IMPROVING_GENERATION, INITIAL_FULL, INITIAL_GENERATION
from irg_rl.model.folder import save_folder
from irg_rl.prompts import write_prompts
from irg_rl.shapes_world import judge_mind
from irg_rl.trajectory import Prompt
from rewards.judge_server import JudgeServer
from sft.dataset import Rejections, RowSource
from tests.data.material import landscapes, shapes
from tests.data.servers import Erring, landscape, landscape_server
from tests.sft.material import improving_full, initial_full, thinking, write

SIZE = {"sampling.image_size": [16, 16], "evaluation.points": 3, "sampling.max_text_tokens": 4,
        "evaluation.preset": "cfg-free"}  # fmt: skip


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "BAGEL-tiny"
    save_folder(world.model, world.vae, world.tokenizer, folder)
    return folder


def test_a_model_in_bagels_layout_draws_and_redraws(irg_rl, model, tmp_path):
    write_prompts(tmp_path / "p.jsonl", [Prompt(f"p{n}", f"a small hill number {n}") for n in range(5)])
    with landscape_server(Erring(), good=1000) as (url, requests):
        settings = {
            "out": str(tmp_path / "out"), "prompts": {"file": str(tmp_path / "p.jsonl")},
            "images": {"model": str(model), "settings": SIZE}, "improve": {"by": "model"},
            "teacher": {"base_url": url, "model": "teacher"}, "rows": {"prompts_per_part": 3},
            "keep": {"judge": {"base_url": url, "model": "judge"}},
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
        answer = irg_rl("data", "build", tmp_path / "r.yaml")
        assert answer.code == 0, answer.err
        asked = len(requests)
        assert irg_rl("data", "build", tmp_path / "r.yaml").code == 0
        assert len(requests) == asked
    out = tmp_path / "out"
    counts = json.loads((out / "counts.json").read_text())
    assert counts["first_images"] == counts["improved_proposed"] == 5 and counts["open_parts"] == 0
    assert counts["rows"][IMPROVING_GENERATION] == 5
    assert counts["rows"][IMPROVING_FULL] == counts["improved_kept"]
    assert f"{IMPROVING_GENERATION}" in answer.out and "data card:" in answer.out
    row = RowSource(out / IMPROVING_GENERATION, 0, Rejections()).draw()
    assert row[2].pixels.shape == (16, 16, 3) and np.ptp(row[2].pixels) > 0
    assert len(list((out / "first").glob("*.png"))) == len(list((out / "improved").glob("*.png"))) == 5


def of_folder(folder) -> list[str]:
    """Overrides of the recipe shapes-irgl for prompts and first images in `folder`."""
    return [
        f"prompts.file={folder}/prompts.jsonl", "prompts.exclude=[]", f"out={folder}/out", "improve.by=none",
        f"images={{folder: {folder}/images, model: null}}",
    ]  # fmt: skip


def test_the_program_itself_plays_the_teacher(irg_rl, tmp_path):
    shapes(tmp_path, 6)
    with JudgeServer(judge_mind.answer) as judge:
        own = f"keep.judge={{base_url: {judge.base_url}, mind: null}}"
        answer = irg_rl("data", "build", "shapes-irgl", *of_folder(tmp_path), own)
    assert answer.code == 0, answer.err
    assert survey(tmp_path / "out" / IMPROVING_GENERATION).rows >= 3
    stats = irg_rl("data", "stats", tmp_path / "out").out
    assert "mean scores" in stats and "24x24 (" in stats and "0.0 %" in stats


def test_a_spent_budget_is_said_with_what_to_do(irg_rl, tmp_path):
    landscapes(tmp_path, [0.9] * 3, landscape)
    with landscape_server(Erring(), good=40) as (url, _):
        servers = [
            f"{place}={{base_url: {url}, mind: null, model: {who}}}"
            for place, who in (("teacher", "teacher"), ("keep.judge", "judge"))
        ]
        answer = irg_rl("data", "build", "shapes-irgl", *of_folder(tmp_path), *servers, "budget.calls=4")
    assert answer.code == 0, answer.err
    assert "budget.calls=4 is spent; raise it and run the command again" in answer.out


def test_check_names_what_cannot_be_trained_on_and_what_looks_odd(irg_rl, tmp_path):
    write(tmp_path / INITIAL_FULL, [initial_full(0), thinking(1)])
    write(tmp_path / INITIAL_GENERATION, [thinking(0)])
    answer = irg_rl("data", "check", tmp_path)
    assert answer.code == 0 and "every row can be trained on" in answer.out
    assert f"{INITIAL_FULL}, of another form: part-00000.parquet, row group 0, row 1: its form is tT" in answer.out
    write(tmp_path / IMPROVING_FULL, ["{half", *[improving_full(n) for n in range(3)]])
    answer = irg_rl("data", "check", tmp_path)
    assert answer.code == 1
    assert "1 of 7 rows cannot be trained on" in answer.err
    assert "row group 0, row 0: conversation: not JSON" in answer.out


def test_stats_of_other_data_show_every_mode(irg_rl, tmp_path):
    write(tmp_path / INITIAL_FULL, [initial_full(n) for n in range(4)])
    answer = irg_rl("data", "stats", tmp_path)
    assert answer.code == 0, answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[:2] for line in lines if line[0].endswith("_learning")] == [[INITIAL_FULL, "4"]]
    assert "16x16 (4)" in answer.out and "teacher" not in answer.out


def test_ls_and_cp_know_data_recipes(irg_rl, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    listed = irg_rl("ls").out
    assert "\ndata recipe " in listed and "\nirgl " in listed and "\nshapes-irgl " in listed
    copied = irg_rl("cp", "irgl", tmp_path / "mine.yaml")
    assert copied.code == 0 and "data build" in copied.out
    assert "\nprompts:\n" in (tmp_path / "mine.yaml").read_text()


def test_cp_says_what_runs_the_file_that_was_copied(irg_rl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert irg_rl("cp", "shapes-smoke", "irgl.yaml").code == irg_rl("cp", "irgl", "shapes-smoke.yaml").code == 0
    assert "irg-rl train a.yaml" in irg_rl("cp", "irgl.yaml", "a.yaml").out
    assert "irg-rl data build b.yaml" in irg_rl("cp", "shapes-smoke.yaml", "b.yaml").out

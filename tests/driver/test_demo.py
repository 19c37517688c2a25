"""`irg-rl demo`: the models that come with the program, and the page that it makes from them."""

import hashlib
import re

import numpy as np
import pytest

from irg_rl.driver import demo
from irg_rl.driver.run_folder import Run
from irg_rl.evaluate import learning
from irg_rl.evaluate.outcomes import load

MOST_BYTES = 12_000_000
FEW = ("evaluation.prompts=2", "evaluation.strips=2", "evaluation.turns=2")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, *FEW))


def test_the_models_are_small_and_are_those_that_their_page_names():
    files = [file for file in demo.CHECKPOINTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    page = " ".join((demo.CHECKPOINTS / "README.md").read_text().split())
    for name in ("sft", "rl"):
        (weights,) = (demo.CHECKPOINTS / name).glob("model-*.safetensors")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        assert re.search(rf"`{name}/{weights.name}` \| `{digest[:16]}`", page)
    assert f"recipe shapes-rl, digest {demo.load_recipe(demo.RECIPE, []).digest()}" in page


def test_both_models_draw_and_the_report_compares_them(few, irg_rl, tmp_path):
    answer = irg_rl("demo", "--out", tmp_path)
    assert answer.code == 0, answer.err
    run = Run.open(tmp_path / "demo")
    assert answer.out.endswith(f"open {run.folder / 'report.html'}\n")
    assert (run.folder / "report.html").stat().st_size > 20_000
    assert {arm: load(run.path("evaluation", f"rl.{arm}.parquet")).turns for arm in ("real", "redraw", "shuffled")} == {
        "real": 2, "redraw": 2, "shuffled": 2,
    }  # fmt: skip
    assert (run.folder / "evaluation" / "comparison.json").is_file() and not run.path("wandb").exists()


def test_rl_is_left_to_do_if_it_is_asked_for(few, tmp_path):
    run = Run.create(demo.demo_recipe(tmp_path, rl=True), lambda made: demo.fill(made, rl=True))
    assert not run.is_done("rl") and run.is_done("sft2") and not run.path("models", "rl").exists()
    assert run.recipe.require_rl().updates == 20


@pytest.mark.parametrize(("rise", "words"), [(0.02, "rises"), (-0.02, "falls"), (0.0, "is not shown to rise")])
def test_what_the_demo_says_of_rl_is_computed_from_its_metrics(rise, words):
    rows = [
        {"stage": "rl", "step": step, "drawn/last": 0.4 + rise * step + (0.03 if step % 2 else -0.03)}
        for step in range(1, 25)
    ]
    found = learning.slope(np.array([row["drawn/last"] for row in rows]))
    sentence = demo.drawn_sentence(rows)
    assert sentence.startswith(f"RL: the drawn reward {words}, ") and "24 updates" in sentence
    assert f"{found.value:+.4f} per update [{found.low:+.4f}, {found.high:+.4f}]" in sentence

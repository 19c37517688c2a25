"""The whole program through its command line: real Ray, DeepSpeed, HTTP judge and scorers, and what it survives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fault_list import CASES, IN_CI
from tests.faults import TINY, Outcome, heed_signals, play

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).parent / "irg-rl"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def command(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "WANDB_MODE": "offline"}
    return subprocess.Popen(
        [COMMAND, *words], cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=heed_signals,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    return said


def weights(run: Path, name: str) -> bytes:
    return (run / "models" / name / "ema.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(command("train", "configs/shapes-smoke.yaml", f"output_dir={folder}", *TINY))
    return folder / "shapes-smoke"


def test_a_run_goes_from_nothing_to_a_report(whole):
    stages = json.loads((whole / "stages.json").read_text())
    assert all(entry["done"] for entry in stages.values())
    assert {"world", "vae", "scorers", "sft1", "own_images", "sft2", "evaluate_sft", "rl", "evaluate_rl"} < set(stages)
    page = (whole / "report.html").read_text()
    assert "shapes-smoke" in page and "shuffled" in page and "redraw" in page


def test_replay_agrees_with_rollout_at_every_turn_and_modality(whole):
    rows = json.loads((whole / "evaluation" / "ratio_check.json").read_text())["rows"]
    assert {(row["modality"], row["turn"]) for row in rows} >= {("text", 0), ("image", 0), ("text", 1), ("image", 1)}
    assert all(row["max"] <= row["limit"] for row in rows)


def test_every_group_leaves_exactly_once(whole):
    facts = json.loads((whole / "stages.json").read_text())["rl"]
    recipe = yaml.safe_load((whole / "recipe.yaml").read_text())
    assert facts["trained"] == recipe["rl"]["updates"] * recipe["rl"]["groups"]
    assert facts["admitted"] == facts["trained"] + facts["dropped"] + facts["cancelled"]


@pytest.mark.parametrize("name", IN_CI)
def test_a_run_survives(whole, tmp_path, name):
    """`python -m tests.faults` runs all cases. SIGTERM and SIGHUP ended in a C++ stack and "Aborted"."""
    (case,) = (case for case in CASES if case.name == name)
    outcome, told = play(case, lambda case: whole, tmp_path)
    assert outcome is Outcome.HOLDS, told


def test_another_seed_of_rl_starts_from_the_same_sft_and_is_pooled_with_the_first(whole, tmp_path):
    finish(command("fork", str(whole), "rl.seed=1", f"output_dir={tmp_path}"))
    forked = tmp_path / "shapes-smoke"
    assert weights(forked, "sft2") == weights(whole, "sft2")
    assert weights(forked, "rl") != weights(whole, "rl")
    said = finish(command("compare", str(whole), str(forked), "--out", str(tmp_path)))
    assert re.search(r"\| SFT checkpoint +\| all +\|", said) and (tmp_path / "pooled.json").is_file()

"""The whole program through its command line: real Ray, DeepSpeed, HTTP judge and scorers, and what it survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).parent / "irg-rl"
TINY = [
    "vae.steps=20", "rewards.training_steps=4", "task_options.own_images=8", "sft.stage1.steps=6", "sft.stage2.steps=4",
    "sft.checkpoint_every=2", "sft.validate_every=3", "rl.updates=3", "evaluation.prompts=8", "tracking.wandb=false",
    "engine.threads=1", "rl.groups_per_batch=2",
]  # fmt: skip
STARTED = ("world", "vae", "scorers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def command(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "WANDB_MODE": "offline"}
    return subprocess.Popen(
        [COMMAND, *words], cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=heed_signals,
    )  # fmt: skip


def heed_signals() -> None:
    """Undo what `nohup` and `&` do to the tests themselves: signals that are ignored stay ignored in children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    return said


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"{path} did not appear in {seconds} s"
        time.sleep(0.05)


def fork(run: Path, folder: Path) -> Path:
    """The run as it was before SFT, in another place: what three stages made is the same for every test here."""
    for name in ("world", "scorers", "models/base", "recipe.yaml", "environment.json"):
        source, target = run / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    shutil.rmtree(folder / "world" / "rows" / "own")
    stages = json.loads((run / "stages.json").read_text())
    (folder / "stages.json").write_text(json.dumps({name: stages[name] for name in STARTED}))
    return folder


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


def test_a_driver_stopped_and_killed_in_sft_and_in_rl_ends_with_the_same_weights(whole, tmp_path):
    """SIGTERM and SIGHUP ended in a C++ stack and "Aborted"."""
    run = fork(whole, tmp_path / "killed")
    for mark, sent in (
        ("sft1/checkpoints/step_000002", signal.SIGTERM), ("sft1/checkpoints/step_000004", signal.SIGKILL),
        ("rl/checkpoints/step_000001", signal.SIGHUP), ("rl/checkpoints/step_000002", signal.SIGKILL),
    ):  # fmt: skip
        process = command("resume", str(run))
        wait_for(run / mark, process)
        own = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        said, _ = process.communicate(timeout=90)
        if mark.startswith("rl"):
            facts = json.loads((run / "stages.json").read_text())["rl"]
            left = ("trained", "dropped", "cancelled", "in_flight")
            assert facts["updates"] and facts["admitted"] == sum(facts[name] for name in left)
        if sent == signal.SIGKILL:
            continue
        assert process.returncode == 75 and "Traceback" not in said and "***" not in said, said
        assert said.rstrip().endswith(f"`irg-rl resume {run}` goes on from the last checkpoint")
        stage = mark.split("/")[0]
        step = re.search(rf"error: stopped by {sent.name} after (?:step|update) (\d+) of {stage}, which is saved", said)
        assert step is not None, said
        assert (run / mark).parent.joinpath(f"step_{int(step[1]):06d}").is_dir(), "the step was not saved"
        assert not psutil.wait_procs(own, timeout=10)[1], "processes were left behind"
    finish(command("resume", str(run)))
    assert weights(run, "sft1") == weights(whole, "sft1")
    assert weights(run, "sft2") == weights(whole, "sft2")
    assert weights(run, "rl") == weights(whole, "rl")


def test_a_killed_rollout_actor_loses_no_group_and_changes_nothing(whole, tmp_path):
    run = fork(whole, tmp_path / "wounded")
    process = command("resume", str(run))
    wait_for(run / "rl" / "checkpoints" / "step_000001", process)
    mine = psutil.Process(process.pid).children(recursive=True)  # another run on this machine has such actors too
    next(child for child in mine if "ray::RolloutWorker" in " ".join(child.cmdline())).kill()
    finish(process)
    facts = json.loads((run / "stages.json").read_text())["rl"]
    assert facts["losses"], "the fleet noticed nothing: the actor was killed too late"
    assert facts["admitted"] == facts["trained"] + facts["dropped"] + facts["cancelled"]
    assert weights(run, "rl") == weights(whole, "rl")


def test_another_seed_of_rl_starts_from_the_same_sft_and_is_pooled_with_the_first(whole, tmp_path):
    finish(command("fork", str(whole), "rl.seed=1", f"output_dir={tmp_path}"))
    forked = tmp_path / "shapes-smoke"
    assert weights(forked, "sft2") == weights(whole, "sft2")
    assert weights(forked, "rl") != weights(whole, "rl")
    said = finish(command("compare", str(whole), str(forked), "--out", str(tmp_path)))
    assert re.search(r"\| SFT checkpoint +\| all +\|", said) and (tmp_path / "pooled.json").is_file()

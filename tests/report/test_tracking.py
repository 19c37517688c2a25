"""wandb itself, offline: no account, no network."""

import json
import logging
import os
import time

import psutil
import pytest
import wandb

from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.samples import from_trajectory
from irg_rl.report.tracking import Tracker
from irg_rl.shapes_world.prompts import make_prompts
from tests.report.demo import AFTER_SFT, sample
from tests.shapes_world.worlds import TASK

SECRET = "0123456789abcdef-very-secret"


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb.teardown()


def files_of(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def a_sample():
    trajectory = sample(make_prompts(1, "test", seed=0)[0], 0, AFTER_SFT)
    verdicts = TASK.verdicts([i.pixels.numpy() for i in trajectory.images], [trajectory.prompt] * trajectory.turns)
    return from_trajectory(trajectory, verdicts)


def test_offline_run_with_scalars_strips_and_table_lies_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", SECRET)
    config = {"seed": 3, "judge": {"api_key": "sesame-open", "url": f"http://host/{SECRET}"}}
    run = tmp_path / "run"
    with Tracker(run, name="demo", config=config) as tracker:
        for step in (1, 2):
            tracker.log("sft1", step, {"ce": 1.0 / step, "norm": float("nan")})
        tracker.log_samples("rl", 2, [a_sample()])
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert list((offline / "files" / "media" / "images").rglob("strips*.png"))
    (table,) = (offline / "files" / "media" / "table").rglob("*.json")
    assert "trajectories" in table.name and a_sample().turns[0].text in json.loads(table.read_text())["data"][0]
    assert not list((tmp_path / "home").rglob("staging/*"))  # all of it lies in the run folder
    assert [(r["step"], r["ce"], r["norm"]) for r in read_metrics(run / "metrics.jsonl")] == [
        (1, 1.0, None),
        (2, 0.5, None),
    ]
    content = files_of(run)
    assert SECRET.encode() not in content and b"sesame-open" not in content


def test_a_resumed_run_keeps_its_wandb_id_and_forgets_later_steps(tmp_path):
    for start in (0, 2):
        with Tracker(tmp_path / "run", name="demo") as tracker:
            tracker.rewind("rl", start)
            for step in range(start + 1, start + 4):
                tracker.log("rl", step, {"reward/turn0": float(step)})
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and len({path.name for f in folders for path in f.glob("run-*.wandb")}) == 1


def test_without_wandb_there_is_only_the_file(tmp_path):
    with Tracker(tmp_path / "run", name="demo", use_wandb=False) as tracker:
        tracker.log("rl", 1, {"a": 1.0})
        tracker.log_samples("rl", 1, [a_sample()])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_server_that_cannot_be_reached_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    with caplog.at_level(logging.WARNING), Tracker(tmp_path / "run", name="demo", deadline_s=3) as tracker:
        tracker.log("rl", 1, {"a": 1.0})
    assert "logged offline" in caplog.text and "a" * 40 not in caplog.text
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert ("a" * 40).encode() not in files_of(tmp_path / "run")


def test_a_home_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path, name="run") as tracker:
        tracker.log("rl", 1, {"reward": 0.5})
        tracker.log_samples("rl", 1, [a_sample()])
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_training_goes_on_when_the_service_of_wandb_has_died(tmp_path, caplog):
    with Tracker(tmp_path / "run", name="demo") as tracker:
        tracker.log("rl", 1, {"reward": 0.1})
        service = [one for one in psutil.Process().children(recursive=True) if "wandb-core" in one.name()]
        for one in service:
            one.kill()
        psutil.wait_procs(service, timeout=10)
        tracker.log("evaluate_rl", 1, {"accuracy": 0.1})  # a stage whose axis wandb does not know yet
        for step in range(2, 20):
            tracker.log("rl", step, {"reward": 0.1})
            time.sleep(0.1)
        tracker.log_samples("rl", 20, [a_sample()])
    assert service, "wandb has no process of its own: the test kills nothing"
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 20
    (said,) = [record.message for record in caplog.records if "wandb has failed" in record.message]
    assert "metrics.jsonl" in said

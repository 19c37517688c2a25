import json
import subprocess
import sys

import pytest

from irg_rl.report.metrics_log import MetricsLog, read_metrics


def filled(path) -> MetricsLog:
    log = MetricsLog(path)
    for stage, steps in (("sft1", 3), ("sft2", 4), ("rl", 2)):
        for step in range(1, steps + 1):
            log.append(stage, step, {"loss": step / 10})
    return log


def places(path) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in read_metrics(path)]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append("rl", 7, {"reward/turn0": 0.5})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (row["stage"], row["step"], row["reward/turn0"]) == ("rl", 7, 0.5) and row["time"] > 1e9


def test_a_value_that_is_not_finite_is_null_and_the_file_stays_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.append("rl", 1, {"loss": float("nan"), "norm": float("inf")}) == {"loss": None, "norm": None}
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None


def test_a_scalar_cannot_take_the_name_of_a_field(tmp_path):
    with pytest.raises(ValueError, match="'step'"):
        MetricsLog(tmp_path / "metrics.jsonl").append("rl", 1, {"step": 3.0})


def test_resuming_forgets_later_steps_and_later_stages_and_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)
    assert log.rewind("sft2", 2) == 4
    log.append("sft2", 3, {"loss": 9.0})
    assert places(path) == [("sft1", 1), ("sft1", 2), ("sft1", 3), ("sft2", 1), ("sft2", 2), ("sft2", 3)]
    assert read_metrics(path)[-1]["loss"] == 9.0


def test_a_stage_that_starts_over_or_for_the_first_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = filled(path)
    assert log.rewind("evaluation", 0) == 0 and len(places(path)) == 9
    assert log.rewind("sft1", 0) == 9 and places(path) == []


def test_half_a_line_left_by_a_kill_is_dropped_and_not_continued(tmp_path):
    path = tmp_path / "metrics.jsonl"
    filled(path).close()
    with path.open("a") as file:
        file.write('{"stage": "rl", "step": 3, "lo')
    assert len(read_metrics(path)) == 9
    log = MetricsLog(path)
    log.append("rl", 3, {"loss": 0.1})
    assert places(path)[-1] == ("rl", 3) and len(places(path)) == 10


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "rl", "step": 1}\nnonsense\n{"stage": "rl", "step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_metrics(path)
    path.write_text('{"stage": "rl"}\n{"stage": "rl", "step": 2}\n')
    with pytest.raises(ValueError, match="line 1 has no stage and step"):
        read_metrics(path)


def test_what_was_logged_survives_a_kill(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from irg_rl.report.metrics_log import MetricsLog\n"
        "MetricsLog(Path(sys.argv[1])).append('rl', 1, {'a': 1.0}); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "metrics.jsonl"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], timeout=120, check=False)
    assert killed.returncode == -9
    assert [row["a"] for row in read_metrics(path)] == [1.0]

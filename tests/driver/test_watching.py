"""Alarms in a run: what they log and say, and how one of them ends the run."""

import json

import pytest

from irg_rl.config.alarms import AlarmsRecipe
from irg_rl.driver import rl_loop, stages
from irg_rl.driver.learners import Learners
from irg_rl.driver.rl_fleets import critic_fleet, rollout_fleet
from irg_rl.driver.rl_loop import Loop, drawn
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import scorer_specs
from irg_rl.driver.stages import tracker_of
from irg_rl.driver.watching import StoppedByAlarm, Watcher
from irg_rl.errors import is_expected
from irg_rl.evaluate.alarms import beginnings
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from tests.driver.begun import begun_run

ALARMS = {"baseline": 4, "window": 4, "dark_share": {"do": "stop"}}
RL = {
    "updates": 9, "groups": 1, "group_size": 2, "noise": {"window": "all"}, "checkpoint_every": 100, "alarms": ALARMS,
}  # fmt: skip
SETTINGS = {
    "tracking": {"wandb": False}, "engine": {"threads": 1, "rollout_actors": 1},
    "sampling": {"image_size": [16, 16], "points": 3, "max_text_tokens": 4, "turns": 1},
    "rewards": {"scorers": [{"name": "light", "kind": "tests.rewards.scorers:Brightness"}]},
}  # fmt: skip


def logged(run: Run, *dark: float) -> Run:
    rows = [{"stage": "sft1", "step": 1, "time": 0.0, "drawn/dark_share": 9.0}]
    rows += [{"stage": "rl", "step": k, "time": 0.0, "drawn/dark_share": share} for k, share in enumerate(dark, 1)]
    (run.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_run_that_goes_on_has_the_baseline_of_its_log_and_says_an_alarm_once(world, tmp_path, capsys):
    run = begun_run(world, tmp_path, **SETTINGS, rl=RL)
    watcher = Watcher(logged(run, 0.1, 0.12, 0.1, 0.12, 0.5, 0.52, 0.5))
    told = watcher.see(8, {"drawn/dark_share": 0.52})
    assert told["alarm/dark_share"] == pytest.approx(2.0) and told["alarm/ringing"] == 1
    assert [one.alarm for one in watcher.stopping] == ["dark_share"]
    message = str(watcher.error())
    assert "\n" not in message and f"irg-rl resume {run.folder}" in message and "rl.alarms.dark_share.do" in message
    assert capsys.readouterr().out.count("alarm at update 8: the dark share of images rose from 0.11 to 0.51") == 1
    watcher.see(9, {"drawn/dark_share": 0.5})
    assert watcher.stopping == [] and capsys.readouterr().out == ""


def learn(run: Run) -> str:
    """Run the loop until it ends or raises. Return the digest of the weights."""
    with scorer_specs(run.recipe, run.path("scorers")) as specs, tracker_of(run) as tracker:
        learners = Learners(run, "base")
        fleets = rollout_fleet(run, "base", learners), critic_fleet(run, specs)
        try:
            Loop(run, tracker, learners, *fleets).run_all()
            return learners.publish().digest
        finally:
            for part in (*fleets, learners):
                part.stop()


def test_a_run_that_an_alarm_has_stopped_goes_on_to_the_weights_of_a_run_without_alarms(
    local_ray, world, tmp_path, monkeypatch
):
    """The share of dark pixels is what the test says: it jumps after update 4."""
    monkeypatch.setattr(rl_loop, "drawn", lambda left: drawn(left) | {"drawn/dark_share": next(shares)})
    shares = iter([0.2, 0.21, 0.2, 0.21, *[0.7] * 5])
    run = begun_run(world, tmp_path / "stop", **SETTINGS, rl=RL)
    with pytest.raises(StoppedByAlarm, match="alarm at update 8: the dark share") as told:
        learn(run)
    assert is_expected(told.value)  # a line and exit code 1, no traceback
    assert [path.name for path in run.path("rl", "checkpoints").iterdir()] == ["step_000008"]
    resumed = learn(Run.open(run.folder))
    rows = read_metrics(run.path(METRICS))
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row.get("alarm/ringing") for row in rows] == [None] * 7 + [1.0, 1.0]

    shares = iter([0.2] * 9)
    off = {name: {"do": "off"} for name in AlarmsRecipe().alarms}
    assert resumed == learn(begun_run(world, tmp_path / "off", **SETTINGS, rl=RL | {"alarms": off}))


def test_a_stage_that_an_alarm_stops_leaves_a_report_that_tells_of_it(world, tmp_path, monkeypatch):
    def stopped(run, *_):
        watcher = Watcher(logged(run, *[0.1, 0.12] * 2, 0.5, 0.52, 0.5, 0.5))
        watcher.stopping = beginnings(read_metrics(run.path(METRICS))[1:], run.recipe.require_rl().alarms)
        raise watcher.error()

    monkeypatch.setattr(stages, "reinforce", stopped)
    run = begun_run(world, tmp_path, **SETTINGS, rl=RL)
    with tracker_of(run) as tracker, pytest.raises(StoppedByAlarm):
        stages.do(run, next(stage for stage in stages.STAGES if stage.name == "rl"), tracker)
    assert not run.is_done("rl")
    assert "alarm at update 8: the dark share of images rose" in (run.folder / "report.html").read_text()

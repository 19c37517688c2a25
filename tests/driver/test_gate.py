"""A whole run stops if its gate does not pass: before RL, or at its end if the recipe applies the gate after RL."""

import pytest

from irg_rl.driver import stages
from irg_rl.driver.run_folder import Run, RunError


class RLStarted(Exception):
    """What the stand-in for RL raises."""


@pytest.fixture
def at_rl(run, monkeypatch):
    """at_rl(gate) -> a run that stands before RL, with the recipe's gate changed; its model has learnt nothing."""

    def start_rl(*_):
        raise RLStarted

    def make(done: bool = False, **gate: str) -> Run:
        run.recipe = run.recipe.model_copy(update={"gate": run.recipe.gate.model_copy(update=gate)})
        for name in ("world", "vae", "scorers"):
            run.record(name, 1.0, done=True)
        for name in () if done else ("rl", "evaluate_rl", "report"):
            del run.stages[name]
        return run

    monkeypatch.setattr(stages, "reinforce", start_rl)
    return make


def test_rl_is_not_started_where_the_gate_does_not_hold(at_rl):
    """Would pass a run through if `check_gate_holds` were not called, or did not raise."""
    run = at_rl(mode="on")
    words = r"RL is not started: first image right is 0\.000 \(n=4 of 4 sets\).*gate.after=rl"
    with pytest.raises(RunError, match=words):
        stages.work(run)
    assert "rl" not in run.stages and run.path("report.html").is_file()
    assert "The recipe asks for it after SFT" in run.path("report.html").read_text()


@pytest.mark.parametrize("gate", [{"mode": "off"}, {"mode": "on", "after": "rl"}])
def test_rl_starts_all_the_same_where_the_gate_is_off_or_asked_after_rl(at_rl, gate):
    with pytest.raises(RLStarted):
        stages.work(at_rl(**gate))


def test_a_gate_that_is_asked_after_rl_closes_the_run_once_all_is_done(at_rl):
    run = at_rl(done=True, mode="on", after="rl")
    with pytest.raises(RunError, match="the gate does not pass after RL: first image right is .* report is complete"):
        stages.work(run)
    assert run.is_done("report") and (run.folder / "evaluation" / "comparison.json").is_file()
    run.path("recipe.yaml").write_text(run.recipe.to_yaml())
    stages.build_report(run.folder)
    assert "The recipe asks for it after RL" in run.path("report.html").read_text()


@pytest.mark.parametrize("gate", [{"mode": "off", "after": "rl"}, {"mode": "on", "after": "sft"}])
def test_nothing_is_asked_after_rl_unless_the_recipe_says_so(at_rl, gate):
    run = at_rl(done=True, **gate)
    stages.check_gate_holds(run, "rl")


def test_a_gate_that_holds_lets_a_run_through(at_rl):
    run = at_rl(mode="on")
    run.record("evaluate_sft", 0.0, done=True, gate=True, failures=[])
    with pytest.raises(RLStarted):
        stages.work(run)

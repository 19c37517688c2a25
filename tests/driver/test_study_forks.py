"""The forks of a study: made once, complete before they are read."""

import pytest

from irg_rl.config import RecipeError
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.driver.study_forks import forked, trainer, with_sft_anew
from irg_rl.evaluate.outcomes import load
from irg_rl.report.metrics_log import MetricsLog
from irg_rl.report.tracking import METRICS
from irg_rl.studies.forks import ForkPlan


@pytest.fixture
def parent(run) -> Run:
    """The tiny run, with the stages before SFT done as well."""
    for stage in ("world", "vae", "scorers"):
        run.record(stage, 1.0, done=True)
    return Run.open(run.folder)


def finished(run: Run, parent: Run) -> None:
    """As if the fork had gone through its stages."""
    for arm in ("sft1", "rl"):
        (run.path("evaluation", f"{arm}.real.parquet")).write_bytes(
            (parent.folder / "evaluation" / f"{arm}.real.parquet").read_bytes()
        )
    run.record("report", 1.0, done=True)


def test_a_fork_is_made_once_and_not_trained_again_when_it_is_finished(parent, tmp_path):
    train = trainer(parent, tmp_path / "runs", {"rl.updates": 3})
    made = forked(parent, tmp_path / "runs", "cell", ForkPlan({"rl.seed": 7}), {"rl.updates": 3})
    assert made.folder == tmp_path / "runs" / "cell" and (made.recipe.rl_seed, made.recipe.rl.updates) == (7, 3)
    finished(made, parent)
    log = MetricsLog(made.folder / METRICS)
    log.append("rl", 1, {"drawn/first": 0.25, "drawn/last": 0.5, "reward/last": 0.7})
    log.append("evaluate_rl", 1, {"accuracy": 1.0})
    outcomes = train("cell", ForkPlan({"rl.seed": 7}))
    assert outcomes.during == [{"update": 1, "first": 0.25, "last": 0.5}]
    assert outcomes.after.correct.tolist() == load(parent.folder / "evaluation" / "rl.real.parquet").correct.tolist()
    assert outcomes.before is not None and [f.name for f in (tmp_path / "runs").iterdir()] == ["cell"]


def test_sft_anew_takes_over_what_comes_before_it_and_nothing_else(parent, tmp_path):
    sources = [{"folder": "mode", "weight": 2.0}]
    plan = ForkPlan({"rl": None, "sft.stage1.sources": sources}, anew=True)
    made = forked(parent, tmp_path, "cell", plan, {"sft.stage1.steps": 3})
    assert sorted(made.stages) == ["scorers", "vae", "world"] and made.recipe.rl is None
    assert (made.recipe.sft.stage1.steps, made.recipe.sft.stage1.sources[0].weight) == (3, 2.0)
    assert (made.folder / "models" / "base").is_dir() and not (made.folder / "models" / "sft1").exists()
    finished(made, parent)
    assert trainer(parent, tmp_path, {})("cell", plan).before is None


def test_what_the_foundations_depend_on_cannot_change(parent):
    with pytest.raises(RecipeError, match=r"sampling.history: 'last' in the run, 'full' asked for"):
        with_sft_anew(parent, ["sampling.history=full"])
    unfinished = parent.stages | {"vae": {"seconds": 1.0, "done": False}}
    write_json(parent.folder / "stages.json", unfinished)
    with pytest.raises(RunError, match="vae is not done"):
        with_sft_anew(Run.open(parent.folder), ["sft.stage1.steps=3"])


def test_a_fork_that_cannot_go_on_ends_the_study_and_keeps_what_it_has(parent, tmp_path):
    """Another process holds the fork, so that the one that goes on with it ends at once."""
    made = forked(parent, tmp_path, "cell", ForkPlan({"rl.seed": 7}), {})
    with made.lock(), pytest.raises(RunError, match="cell ended with code 1, .* the same study goes on"):
        trainer(parent, tmp_path, {})("cell", ForkPlan({"rl.seed": 7}))
    assert forked(parent, tmp_path, "cell", ForkPlan({"rl.seed": 7}), {}).folder == made.folder

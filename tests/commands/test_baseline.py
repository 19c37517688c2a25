"""`irg-rl baseline` on a tiny run: real training, real sampling."""

import shutil

import pytest

from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.sft import continued_stage
from irg_rl.evaluate.outcomes import load
from irg_rl.model.folder import WEIGHTS
from irg_rl.report.folder import is_of_the_run, read_run


def weights(run: Run, model: str) -> bytes:
    return run.path("models", model, WEIGHTS).read_bytes()


@pytest.mark.parametrize(("rl_seconds", "steps"), [(5.0, 2), (7.1, 4), (0.1, 1)])
def test_the_baseline_has_the_steps_that_sft_makes_in_the_time_of_rl(run, rl_seconds, steps):
    run.stages["rl"]["seconds"] = rl_seconds  # a step of SFT took 2 s
    stage, before = continued_stage(run), run.recipe.sft.stage1
    assert (stage.steps, stage.sources, stage.optimizer) == (steps, before.sources, before.optimizer)


def test_no_plateau_ends_the_baseline_early(run):
    run.stages["rl"]["seconds"] = 1000.0
    assert continued_stage(run).patience >= continued_stage(run).steps == 500


def test_the_baseline_of_a_run_without_rl_or_not_finished_is_refused(run):
    del run.stages["report"]
    with pytest.raises(RunError, match="not finished yet: `irg-rl resume .*` first, then the baseline"):
        continued_stage(run)
    run.recipe = run.recipe.model_copy(update={"rl": None})
    with pytest.raises(RunError, match="for as long as RL took, so the run needs both"):
        continued_stage(run)


def test_sft_goes_on_is_measured_and_stands_beside_rl(run, irg_rl):
    answer = irg_rl("baseline", run.folder)
    assert answer.code == 0 and "SFT sft_continued: 2/2" in answer.out and "SFT continued" in answer.out
    done = Run.open(run.folder)
    assert done.stages["sft_continued"]["steps"] == 2 and done.is_done("evaluate_sft_continued")
    assert weights(done, "sft_continued") != weights(done, "sft1")
    for arm in ("real", "redraw", "shuffled"):
        here, before = (load(run.folder / "evaluation" / f"{name}.{arm}.parquet") for name in ("sft_continued", "sft1"))
        assert here.prompt_ids == before.prompt_ids and here.correct.shape == before.correct.shape
    record = read_run(run.folder)
    assert [(e["name"], is_of_the_run(record, e)) for e in record.evaluations] == [
        ("sft1", True), ("rl", True), ("sft_continued", False),
    ]  # fmt: skip
    assert "SFT continued" in (run.folder / "report.html").read_text()
    again = irg_rl("baseline", run.folder)
    assert again.code == 0 and Run.open(run.folder).stages == done.stages


def test_a_baseline_that_was_stopped_goes_on_to_the_same_weights(run, irg_rl):
    assert irg_rl("baseline", run.folder).code == 0
    whole = weights(run, "sft_continued")
    shutil.rmtree(run.folder / "sft_continued" / "checkpoints" / "step_000002")
    shutil.rmtree(run.folder / "models" / "sft_continued")
    stopped = Run.open(run.folder)
    stopped.record("sft_continued", 0.0, done=False)
    answer = irg_rl("baseline", run.folder)
    assert answer.code == 0 and weights(run, "sft_continued") == whole

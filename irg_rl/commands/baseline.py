"""`irg-rl baseline`: SFT continued for as long as RL took, what the same time would have bought without RL."""

from pathlib import Path

import torch

from irg_rl.config import Stage
from irg_rl.driver.checks import require_machine
from irg_rl.driver.compare import CONTINUED, compare_runs
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.sft import train_stage
from irg_rl.driver.stages import evaluate, step, tracker_of
from irg_rl.report.build import build_report
from rollouts.noise import hashed


def continue_sft(folder: Path) -> None:
    """Train and evaluate the baseline of a finished run, or go on with it, and compare again."""
    run = Run.open(folder)
    stage = continued_stage(run)
    require_machine(run.recipe)
    torch.manual_seed(run.recipe.seed)
    order = hashed(run.recipe.seed, CONTINUED) % 2**31  # rows in another order than in the stage before
    with run.lock(), tracker_of(run) as tracker:
        step(run, CONTINUED, lambda facts: train_stage(run, CONTINUED, run.sft_model, stage, tracker, facts, order))
        step(run, f"evaluate_{CONTINUED}", lambda facts: evaluate(run, CONTINUED, tracker, facts))
        compare_runs([folder])
    console.print(f"report: {build_report(run.folder)}")


def continued_stage(run: Run) -> Stage:
    """The last SFT stage with as many steps as it makes in the time that RL took. It ends at no plateau: the baseline
    may spend what RL has spent.

    Raises RunError for a run without both, or one that is not finished.
    """
    name, recipe = run.sft_model, run.recipe
    if name is None or recipe.rl is None:
        raise RunError(f"{run.folder}: the baseline continues SFT for as long as RL took, and the run has not both")
    if not run.is_done("report"):
        raise RunError(f"{run.folder}: not finished yet; `irg-rl resume {run.folder}` goes on, then comes the baseline")
    sft = run.stages[name]
    steps = max(round(run.stages["rl"]["seconds"] / (sft["seconds"] / sft["steps"])), 1)
    return list(recipe.sft.stages.values())[-1].model_copy(update={"steps": steps, "patience": steps})

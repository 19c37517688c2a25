"""`irg-rl baseline`: trains a baseline for RL. The baseline continues SFT (supervised fine-tuning) for the same time
that RL took. So it shows how much a model gains in this time without RL."""

from pathlib import Path

import torch

from irg_rl import faults
from irg_rl.driver.checks import require_machine
from irg_rl.driver.compare import compare_runs
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run
from irg_rl.driver.sft import require_finished
from irg_rl.driver.stages import BASELINE, do, ending_in_order, tracker_of
from irg_rl.report.build import build_report


def continue_sft(folder: Path, restart_stage: bool = False) -> None:
    """Train and evaluate the baseline of the finished run in `folder`, and compare the RL model with the baseline. If
    the training of the baseline was interrupted, continue it. With `restart_stage`, begin it anew if all its
    checkpoints are damaged."""
    run = Run.open(folder)
    run.restarts_stage = restart_stage
    require_finished(run)
    require_machine(run.recipe)
    torch.manual_seed(run.recipe.seed)
    faults.arm(run.folder, [fault.model_dump() for fault in run.recipe.faults])
    with run.lock(), ending_in_order(run), tracker_of(run) as tracker:
        for stage in BASELINE:
            do(run, stage, tracker)
        compare_runs([folder])
    console.print(f"report: {build_report(run.folder)}")

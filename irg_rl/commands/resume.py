"""`irg-rl resume`: continues an interrupted run."""

from pathlib import Path

from irg_rl.driver.checks import require_machine
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import unfinished, work


def resume(folder: Path, restart_stage: bool = False) -> None:
    """Run the unfinished stages of the run in `folder`. An interrupted stage continues from its last checkpoint. With
    `restart_stage`, a stage whose checkpoints are all damaged begins anew."""
    run = Run.open(folder)
    run.restarts_stage = restart_stage
    if not unfinished(run):
        line = f"{folder}: all stages of this run are finished; only its report is built again"
        console.print(line, soft_wrap=True, markup=False)
    require_machine(run.recipe)
    work(run)

"""`irg-rl resume`: continues an interrupted run."""

from pathlib import Path

from irg_rl.driver.checks import require_machine
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import work


def resume(folder: Path) -> None:
    """Run the unfinished stages of the run in `folder`. An interrupted stage continues from its last checkpoint."""
    run = Run.open(folder)
    require_machine(run.recipe)
    work(run)

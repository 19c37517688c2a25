"""Finds the checkpoint from which a stage of a run goes on, and says which checkpoints are damaged."""

from pathlib import Path

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run
from irg_rl.learner import checkpoint


def newest_checkpoint(run: Run, stage: str) -> Path | None:
    """Return the newest complete checkpoint of the stage, or None if the stage begins anew. One line is printed for
    each damaged checkpoint that is newer. All files of the returned checkpoint have been compared with their digests.

    Raises CheckpointError if the stage has checkpoints and all of them are damaged. With `run.restarts_stage`, the
    stage begins anew instead.
    """
    return checkpoint.newest(run.path(stage), tell, run.restarts_stage)


def tell(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, style="yellow")

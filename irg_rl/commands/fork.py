"""`irg-rl fork`: makes a new run that starts RL from the finished SFT of another run."""

from pathlib import Path

from irg_rl.driver.fork import fork
from irg_rl.driver.stages import work


def fork_run(folder: Path, overrides: list[str]) -> None:
    """Make a new run that takes over the finished SFT of the run in `folder`, and run RL in it. `overrides` replace
    settings of the recipe."""
    work(fork(folder, overrides))

"""`irg-rl fork`."""

from pathlib import Path

from irg_rl.driver.fork import fork
from irg_rl.driver.stages import work


def fork_run(folder: Path, overrides: list[str]) -> None:
    """Make a run that takes over the finished SFT of run `folder`, and do RL in it."""
    work(fork(folder, overrides))

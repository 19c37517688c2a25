"""`irg-rl report`."""

from pathlib import Path

from irg_rl.driver.run_folder import Run
from irg_rl.report.build import build_report


def build(folder: Path) -> Path:
    """Build report.html of a run. RunError if the folder is not a run."""
    return build_report(Run.open(folder).folder)

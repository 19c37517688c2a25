"""`irg-rl report`."""

from pathlib import Path

from irg_rl.driver.run_folder import Run
from irg_rl.report.build import build_report


def build(folder: Path) -> Path:
    """Build report.html of a run; RunError when the folder is none."""
    return build_report(Run.open(folder).folder)

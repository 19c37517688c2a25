"""`irg-rl report`: builds the report of a run."""

from pathlib import Path

from irg_rl.driver.run_folder import Run
from irg_rl.report.build import build_report


def build(folder: Path) -> Path:
    """Build report.html for the run in `folder`, and return the path of the file. Raises RunError if the folder is not
    a run."""
    return build_report(Run.open(folder).folder)

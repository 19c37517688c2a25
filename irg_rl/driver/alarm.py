"""Decides from the log of a run whether RL is learning. The answer is printed on the terminal and written to a file for
the report."""

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.evaluate.learning import Learning, learning
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS


def tell_learning(run: Run) -> Learning:
    """Write evaluation/learning.json from the RL rows of metrics.jsonl, print its sentence, and return the result."""
    found = learning([row for row in read_metrics(run.path(METRICS)) if row["stage"] == "rl"])
    write_json(run.path("evaluation", "learning.json"), found.to_dict())
    console.print(found.sentence, markup=False)
    return found

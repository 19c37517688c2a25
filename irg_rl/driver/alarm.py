"""Whether RL is learning, from what it has logged so far: said on the terminal, and written for the report."""

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.evaluate.learning import Learning, learning
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS


def tell_learning(run: Run) -> Learning:
    """Write evaluation/learning.json from the rows of RL in metrics.jsonl, print its sentence, and return it."""
    found = learning([row for row in read_metrics(run.path(METRICS)) if row["stage"] == "rl"])
    write_json(run.path("evaluation", "learning.json"), found.to_dict())
    console.print(found.sentence, markup=False)
    return found

"""Checks in the log of a run whether reinforcement learning (RL) makes progress. The answer is printed on the terminal,
and written to a file that the report shows."""

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.evaluate.learning import Learning, learning
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS


def tell_learning(run: Run) -> Learning:
    """Check in the RL rows of metrics.jsonl whether RL makes progress. Write the result to evaluation/learning.json,
    print it as a sentence, and return it."""
    found = learning([row for row in read_metrics(run.path(METRICS)) if row["stage"] == "rl"])
    write_json(run.path("evaluation", "learning.json"), found.to_dict())
    console.print(found.sentence, markup=False)
    return found

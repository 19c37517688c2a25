"""Runs the alarms of RL after every update: logs their numbers, writes a line when one begins to ring, and ends the run
if the recipe says so."""

from collections.abc import Mapping

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.evaluate.alarms import AlarmState, Watch, metrics_of
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS


class StoppedByAlarm(RunError):
    """Raised if an alarm with `do: stop` has begun to ring. The run can be resumed."""


class Watcher:
    """The alarms of a run that is working. Their state is read from metrics.jsonl, so that a resumed run has the alarms
    of an uninterrupted one. Create this object after the lines of updates that are repeated were removed.

    `stopping` has the states of those alarms that end the run after the latest update.
    """

    def __init__(self, run: Run):
        self.folder, self.watch = run.folder, Watch(run.recipe.require_rl().alarms)
        self.stopping: list[AlarmState] = []
        for row in read_metrics(run.path(METRICS)):
            if row["stage"] == "rl":
                self.watch.see(row["step"], row)

    def see(self, update: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Take the metrics of an update, and print a line for every alarm that begins to ring. Return the metrics of
        the alarms, to be logged with those of the update."""
        states = self.watch.see(update, metrics)
        begun = [state for state in states if state.begins]
        for state in begun:
            console.print(state.sentence, style="yellow", soft_wrap=True, markup=False)
        self.stopping = [state for state in begun if state.settings.do == "stop"]
        return metrics_of(states)

    def error(self) -> StoppedByAlarm:
        """Return the error that ends the run. Its message is one line."""
        names = ", ".join(f"rl.alarms.{name}.do" for name in dict.fromkeys(one.alarm for one in self.stopping))
        return StoppedByAlarm(
            f"{'; '.join(one.sentence for one in self.stopping)}. The run has stopped because {names} is stop; its "
            f"checkpoint is saved, and `irg-rl resume {self.folder}` goes on in spite of this alarm"
        )

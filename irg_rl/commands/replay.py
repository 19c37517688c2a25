"""`irg-rl replay`: repeats one update of the learner from the groups of samples that the run has saved (with
rl.dump_every). It needs no Ray, no sampling and no scorers.

The replay starts from the newest checkpoint before the update, or from the weights at the start of RL. From there, it
repeats all updates with their saved groups. On the CPU the result is bit for bit equal to the result of the run. To
check this, the metrics (losses, gradient norms, ratios) are compared with the log of the run.

If the groups of the next update were saved, the weights are checked, too. The saved groups contain the digest (hash) of
the weights that sampled them. The weights after the replay must have the same digest.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.table import Table

from irg_rl.algorithms.learner import Learner
from irg_rl.driver.prepare import model_path
from irg_rl.driver.progress import bar, console
from irg_rl.driver.resuming import tell
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.learner import checkpoint
from irg_rl.records import load_groups, step_folder
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS

SHOWN = ("loss/", "grad_norm/", "skipped")
"""Only metrics whose names begin with one of these words are printed. All other metrics that the replay and the log
have in common are also compared, but not printed."""


def replay_step(folder: Path, step: int) -> None:
    """Repeat RL update number `step` of the run in `folder`. Print the new metrics beside the metrics in the log of the
    run. If the run was made on the CPU, raises RunError if a metric or the weights differ."""
    run = Run.open(folder)
    logged = _logged(run, step)
    learner, first = _learner_before(run, step)
    again: dict[str, float] = {}
    with bar(f"replay of step {step}", step - first + 1) as progress:
        for number in range(first, step + 1):
            groups = load_groups(step_folder(run.folder, number))
            if number == 1:
                learner.check_ratio(*groups)
            again = learner.train(*groups)
            progress.advance(note=f"update {number}")
    again.pop("step")
    differing = {name for name in again.keys() & logged.keys() if not _same(again[name], logged[name])}
    console.print(as_table(step, again, logged))
    console.print(f"{len(again.keys() & logged.keys()) - len(differing)} of {len(again)} metrics are those of the run")
    differing |= _other_weights(run, learner, step)
    if differing and run.recipe.engine.device == "cpu":
        raise RunError(
            f"{folder}: step {step} came out differently in {', '.join(sorted(differing)[:5])}: the machine or the "
            "versions of torch and irg-rl are not those of the run"
        )


def as_table(step: int, again: Mapping[str, float], logged: Mapping[str, float]) -> Table:
    table = Table("metric", "in the run", "again", title=f"RL update {step}")
    for name in sorted(name for name in again if name.startswith(SHOWN)):
        before = logged.get(name)
        table.add_row(name, f"{math.nan if before is None else before:.9g}", f"{again[name]:.9g}")
    return table


def _logged(run: Run, step: int) -> dict:
    lines = [line for line in read_metrics(run.path(METRICS)) if line["stage"] == "rl"]
    found = [line for line in lines if line["step"] == step and "loss/text" in line]
    if not found:
        last = max((line["step"] for line in lines), default=0)
        raise RunError(f"{run.folder}: its log has no RL update {step}; it goes to {last}")
    return found[-1]


def _learner_before(run: Run, step: int) -> tuple[Learner, int]:
    """Return (learner, number of the first step to repeat). The learner is in the state of the newest checkpoint before
    `step`, or at the start of RL if there is none."""
    recipe = run.recipe
    if recipe.engine.learner_ranks > 1:
        raise RunError(f"{run.folder}: replay has one learner rank, and the run had {recipe.engine.learner_ranks}")
    begun = checkpoint.before(run.path("rl"), step, tell)
    first = 1 if begun is None else checkpoint.describe(begun, checked=True).step + 1
    missing = [number for number in range(first, step + 1) if not step_folder(run.folder, number).is_dir()]
    if missing:
        raise RunError(
            f"{run.folder}: step {step} must be repeated from step {first - 1}, but {len(missing)} steps between "
            f"were not dumped, first step {missing[0]}: `irg-rl fork {run.folder} rl.dump_every=1` makes a run that "
            "dumps all"
        )
    torch.set_num_threads(recipe.engine.threads)
    learner = Learner(learner_settings(recipe, str(model_path(run, run.sft_model or "base"))))
    learner.setup()
    if begun is not None:
        learner.load(str(begun), checked=True)
    return learner, first


def _same(one: float, other: float | None) -> bool:
    """Return whether a metric of the replay equals the metric in the log. The log has null (None) for a value that is
    not finite."""
    return one == other or (other is None and not math.isfinite(one))


def _other_weights(run: Run, learner: Learner, step: int) -> set[str]:
    """Compare the weights after the step with the weights that sampled the next step in the run. For this, digests
    (hashes) of the weights are compared. Return an empty set if they are equal or cannot be compared, or else a set
    with one text that names the difference."""
    folder = step_folder(run.folder, step + 1)
    if not folder.is_dir():
        return set()
    sampled = {t.digest for group in load_groups(folder) for t in group.trajectories if t.version == step}
    if not sampled:
        return set()
    published = learner.publish(step)
    assert published is not None, "a learner alone is rank 0, which publishes"
    own = published.digest
    with_ = ", ".join(sorted(digest[:12] for digest in sampled))
    console.print(f"weights after the step: {own[:12]}; step {step + 1} was sampled with {with_}")
    return set() if sampled == {own} else {"the weights after the step"}

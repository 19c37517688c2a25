"""`irg-rl replay`: a learner's step again, from the groups that were dumped, without Ray, rollouts or scorers.

The step begins where it began in the run: at the newest checkpoint before it, or at the first weights, with all updates
in between done again from their own dumps. On the CPU everything is the same to the bit, which is checked against what
the run logged (losses, gradient norms, ratios) and, where the next step was dumped too, against the digest of the
weights that sampled it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.table import Table

from irg_rl.algorithms.learner import Learner
from irg_rl.driver.prepare import model_path
from irg_rl.driver.progress import bar, console
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.learner import checkpoint
from irg_rl.records import load_groups, step_folder
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS

SHOWN = ("loss/", "grad_norm/", "skipped")
"""Metrics that the table prints; all that both sides have are compared."""


def replay_step(folder: Path, step: int) -> None:
    """Print the step's metrics beside those of the run; RunError when one differs on the CPU."""
    run = Run.open(folder)
    logged = _logged(run, step)
    learner, first = _learner_before(run, step)
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
        table.add_row(name, f"{logged.get(name, math.nan):.9g}", f"{again[name]:.9g}")
    return table


def _logged(run: Run, step: int) -> dict:
    lines = [line for line in read_metrics(run.path(METRICS)) if line["stage"] == "rl"]
    found = [line for line in lines if line["step"] == step and "loss/text" in line]
    if not found:
        last = max((line["step"] for line in lines), default=0)
        raise RunError(f"{run.folder}: its log has no RL update {step}; it goes to {last}")
    return found[-1]


def _learner_before(run: Run, step: int) -> tuple[Learner, int]:
    """The learner with the state of the newest checkpoint before the step, and the first step to do."""
    recipe = run.recipe
    if recipe.engine.learner_ranks > 1:
        raise RunError(f"{run.folder}: replay runs one learner rank, the run had {recipe.engine.learner_ranks}")
    begun = checkpoint.before(run.path("rl"), step)
    first = 1 if begun is None else checkpoint.describe(begun).step + 1
    missing = [number for number in range(first, step + 1) if not step_folder(run.folder, number).is_dir()]
    if missing:
        raise RunError(
            f"{run.folder}: step {step} goes on from step {first - 1}, and {len(missing)} of the steps since were not "
            f"dumped, step {missing[0]} first: `irg-rl fork {run.folder} rl.dump_every=1` makes a run that dumps all"
        )
    torch.set_num_threads(recipe.engine.threads)
    learner = Learner(learner_settings(recipe, str(model_path(run, run.sft_model or "base"))))
    learner.setup()
    if begun is not None:
        learner.load(str(begun))
    return learner, first


def _same(one: float, other: float | None) -> bool:
    """What is not finite is written down as null."""
    return one == other or (other is None and not math.isfinite(one))


def _other_weights(run: Run, learner: Learner, step: int) -> set[str]:
    """Compared by digest with those that sampled the next step."""
    folder = step_folder(run.folder, step + 1)
    if not folder.is_dir():
        return set()
    sampled = {t.digest for group in load_groups(folder) for t in group.trajectories if t.version == step}
    if not sampled:
        return set()
    own = learner.publish(step).digest
    with_ = ", ".join(sorted(digest[:12] for digest in sampled))
    console.print(f"weights after the step: {own[:12]}; step {step + 1} was sampled with {with_}")
    return set() if sampled == {own} else {"the weights after the step"}

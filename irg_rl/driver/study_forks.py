"""Trains the forks of a study. A study compares settings. For each setting it makes a fork, a new run that continues
from the results of another run (its parent). A finished fork is not trained again. An interrupted fork continues."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from irg_rl.config import Recipe, RecipeError, load_recipe
from irg_rl.driver.checks import require_machine
from irg_rl.driver.compare import outcomes_of
from irg_rl.driver.fork import changes, fork, is_free, take_over
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from irg_rl.studies.forks import ForkPlan, Train, Trained
from irg_rl.studies.frame import FrameRow

FOUNDATIONS = ("world", "vae", "scorers", "pretrain")
"""Stages before SFT stage 1. A fork that repeats SFT takes over their results from the parent run."""
ANEW = ("sft.stage1.", "sft.stage2.", "sft.dropout.", "sft.ema_decay", "sft.validate_every")
"""If the name of a setting begins with one of these texts, only a fork that repeats SFT may change the setting."""


def trainer(parent: Run, folder: Path, overrides: Mapping[str, object]) -> Train:
    """Return a function `train(name, plan)`. It trains one fork, and returns the results of the fork's evaluations. (A
    fork is a new run that continues from the results of the run `parent`.) `name` is the name of the fork, and `plan`
    has its settings. The fork gets a new folder inside `folder`. The settings in `overrides` apply to all forks."""

    def train(name: str, plan: ForkPlan) -> Trained:
        run = forked(parent, folder, name, plan, overrides)
        if not run.is_done("report"):
            run = trained(run)
        assert run.sft_model is not None, "forked() refuses a parent without SFT"
        before = None if plan.anew else outcomes_of(run, run.sft_model)
        return Trained(before, outcomes_of(run, run.sft_model if plan.anew else "rl"), rewards_of(run))

    return train


def rewards_of(run: Run) -> list[FrameRow]:
    """Return one dict for each RL update of the run, with three entries: the number of the update (`update`), the mean
    reward of all first images (`first`), and the mean reward of all last images (`last`). The list is empty if RL did
    not run or drew no images."""
    return [
        {"update": row["step"], "first": row["drawn/first"], "last": row["drawn/last"]}
        for row in read_metrics(run.folder / METRICS) if row["stage"] == "rl" and "drawn/first" in row
    ]  # fmt: skip


def forked(parent: Run, folder: Path, name: str, plan: ForkPlan, overrides: Mapping[str, object]) -> Run:
    """Return the fork `name` of the run `parent`. (A fork is a new run that continues from results of its parent.) If
    this fork is already in `folder`, it is opened. Otherwise it is made with the settings of `plan` and `overrides`.
    The name contains everything on which the result of the fork depends. So an existing fork of this name can be used
    again.

    Raises RunError if the parent run has no SFT.
    """
    if (folder / name / "recipe.yaml").is_file():
        return Run.open(folder / name)
    if parent.sft_model is None:
        raise RunError(f"{parent.folder}: a study forks what SFT has made, and the recipe has no `sft`")
    settings = {**overrides, **plan.changes, "name": name, "output_dir": str(folder)}
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return with_sft_anew(parent, words) if plan.anew else fork(parent.folder, words)


def with_sft_anew(parent: Run, words: list[str]) -> Run:
    """Make a new run that repeats SFT stages 1 and 2. It takes over the results of all earlier stages, including base
    training, from the run `parent`. `words` are settings such as "rl.seed=3". They replace the same settings in the
    parent's recipe."""
    recipe = load_recipe(parent.folder / "recipe.yaml", words)
    require_same_foundations(parent, recipe)
    require_machine(recipe)
    missing = [stage for stage in FOUNDATIONS[:3] if not parent.is_done(stage)]
    if missing:
        raise RunError(f"{parent.folder}: {missing[0]} is not done; `irg-rl resume {parent.folder}` goes on")
    stages = [stage for stage in FOUNDATIONS if parent.is_done(stage)]
    return Run.create(recipe, lambda run: take_over(parent, run, stages))


def require_same_foundations(parent: Run, recipe: Recipe) -> None:
    fixed = [
        change for change in changes(parent.recipe, recipe)
        if not is_free(change[0]) and not f"{change[0]}.".startswith(ANEW)
    ]  # fmt: skip
    if fixed:
        lines = [f"  {key}: {old!r} in the run, {new!r} asked for" for key, old, new in fixed]
        raise RecipeError(
            f"{parent.folder}: what comes before SFT depends on {len(fixed)} setting(s) that the study would change; "
            "`irg-rl train` makes a run of its own\n" + "\n".join(lines)
        )


def trained(run: Run) -> Run:
    """Run all remaining stages of the run, and return the run. The work is done in a new process, so that
    no threads of Ray are left when the study starts its next run.

    Raises RunError if this process fails.
    """
    words = [sys.executable, "-c", "from irg_rl.commands.cli import main; main()", "resume", str(run.folder)]
    ended = subprocess.run(words, check=False).returncode
    if ended:
        raise RunError(
            f"{run.folder} ended with code {ended}, its messages stand above: mend that, and the same study goes on"
        )
    return Run.open(run.folder)

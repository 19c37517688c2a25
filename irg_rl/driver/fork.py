"""`irg-rl fork`: makes a new run (a fork) that starts RL from the SFT checkpoint of another run.

All forks of a run share its prompts, its data and its SFT checkpoint. They differ only in RL. So a fork cannot change a
setting that has an effect on the finished stages.
"""

import json
import os
import shutil
from pathlib import Path

from irg_rl.config import Recipe, RecipeError, load_recipe
from irg_rl.driver.checks import require_machine
from irg_rl.driver.prepare import trained_scorers
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.driver.stages import BEFORE_RL
from irg_rl.learner.checkpoint import differing
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS

FREE = {
    "name", "description", "output_dir", "budget_minutes", "rl", "rewards", "evaluation", "gate", "engine", "tracking",
    "sampling.turns",
}  # fmt: skip
"""Settings and sections of the recipe that a fork may change. `sampling.turns` is one of them, because only RL uses it:
SFT data and evaluation have their own numbers of turns."""
EVALUATED = ("rewards", "evaluation", "gate", "engine.device", "engine.dtype")
"""Settings and sections in `FREE` on which the evaluation of the SFT checkpoint depends. If a fork changes one of them,
it evaluates the checkpoint again."""


def fork(folder: Path, overrides: list[str]) -> Run:
    """Make a new run from the recipe of the run in `folder`. `overrides` are settings that replace settings of this
    recipe. The results of the finished stages before RL are taken over. The new run is placed beside `folder`, or in
    `output_dir` if the overrides set it.

    Raises RecipeError if an override changes a setting that has an effect on these stages. Raises RunError if SFT is
    not finished.
    """
    parent = Run.open(folder)
    recipe = forked_recipe(parent, overrides)
    start = parent.sft_model or "scorers"
    if not parent.is_done(start):
        raise RunError(f"{folder}: a fork begins after {start}, which is not done; `irg-rl resume {folder}` goes on")
    require_machine(recipe)
    stages = stages_to_take(parent, recipe)
    return Run.create(recipe, lambda run: take_over(parent, run, stages))


def forked_recipe(parent: Run, overrides: list[str]) -> Recipe:
    beside = json.dumps(str(parent.folder.resolve().parent))
    recipe = load_recipe(parent.folder / "recipe.yaml", [f"output_dir={beside}", *overrides])
    fixed = [change for change in changes(parent.recipe, recipe) if not is_free(change[0])]
    if fixed:
        lines = [f"  {key}: {old!r} in the run, {new!r} asked for" for key, old, new in fixed]
        raise RecipeError(
            f"{parent.folder}: the finished stages depend on {len(fixed)} setting(s) that a fork would change; "
            "`irg-rl train` makes a run of its own\n" + "\n".join(lines)
        )
    if recipe.rl is None:
        raise RecipeError(f"{parent.folder}: a fork does RL, and the recipe has no `rl`; give one, as rl.updates=60")
    return recipe


def is_free(setting: str) -> bool:
    """Return whether a fork (a new run that starts RL from the SFT checkpoint of another run) may change this setting.
    The name of the setting has dots, as in rl.seed."""
    return setting in FREE or setting.split(".")[0] in FREE


def changes(old: Recipe, new: Recipe) -> list[tuple[str, object, object]]:
    """Compare two recipes. Return (name, old value, new value) for every setting that differs. The name of a setting
    has dots, as in rl.seed."""
    return differing(old.model_dump(mode="json"), new.model_dump(mode="json"))


def stages_to_take(parent: Run, recipe: Recipe) -> list[str]:
    """Return the names of the parent's stages that a fork need not repeat. (A fork is a new run that starts from the
    SFT checkpoint of its parent.) Such a stage comes before RL, the parent has finished it, and its results are also
    valid with `recipe`, the recipe of the fork."""
    no_result_depends_on = {"gate.mode", "gate.after"}
    changed = {key for key, *_ in changes(parent.recipe, recipe)} - no_result_depends_on
    again = set()
    if "rewards.training_steps" in changed or not trained_scorers(recipe) <= trained_scorers(parent.recipe):
        again.add("scorers")
    if any(f"{key}.".startswith(tuple(f"{one}." for one in EVALUATED)) for key in changed):
        again.add("evaluate_sft")
    return [stage.name for stage in BEFORE_RL if parent.is_done(stage.name) and stage.name not in again]


def take_over(parent: Run, run: Run, stages: list[str]) -> None:
    """Copy the results of the given stages from the run `parent` into the new run `run`. The results are files (copied
    as hard links if possible), entries in stages.json, and metrics."""
    for pattern in (pattern for stage in BEFORE_RL if stage.name in stages for pattern in stage.files):
        for source in sorted(parent.folder.glob(pattern)):
            link(source, run.path(*source.relative_to(parent.folder).parts))
    rejected = parent.folder / "rejected.jsonl"
    if rejected.is_file():
        shutil.copy(rejected, run.folder)  # later stages append to it
    lines = [json.dumps(row) for row in read_metrics(parent.folder / METRICS) if row["stage"] in stages]
    (run.folder / METRICS).write_text("".join(f"{line}\n" for line in lines))
    origin = {"from": str(parent.folder.resolve())}
    run.stages = {stage: origin | parent.stages[stage] for stage in stages}
    write_json(run.folder / "stages.json", run.stages)


def link(source: Path, target: Path) -> None:
    """Make a hard link to a file, or to each file of a folder. If the file system has no hard links, copy the files
    instead."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk. If the disk is full, the copy fails too and reports it
        shutil.copy2(source, target)

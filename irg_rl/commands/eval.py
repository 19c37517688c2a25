"""`irg-rl eval`: evaluates a run or a checkpoint on held-out prompts."""

from dataclasses import replace
from pathlib import Path

import torch

from irg_rl.config import changed_recipe
from irg_rl.driver.compare import evaluation_name
from irg_rl.driver.evaluator import Evaluator, gate_of, held_out_prompts, shown_accuracies, shown_preference
from irg_rl.driver.prepare import load_as
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import TRAINED, Run, RunError
from irg_rl.driver.scorers import reward_hub
from irg_rl.evaluate.suite import REAL
from irg_rl.model.folder import is_model_folder
from irg_rl.presets import PRESET
from irg_rl.report.kept import kept_path
from irg_rl.task import task_of


def evaluate_target(
    target: Path,
    changes: dict[str, int | None],
    *,
    preset: str | None,
    preference: str | None,
    split: str,
    samples: int,
    scored: bool,
    controls: bool,
    out: Path | None,
) -> None:
    """Evaluate a model, print its accuracy per turn, and save the results in `out`. If `out` is None, they are saved in
    evaluation/ of the run. `target` is a run (its newest model is evaluated) or a model folder inside a run.

    `preset`, `preference` and `changes` replace settings of the recipe's `evaluation`. A value of None leaves a setting
    unchanged.

    `split` is the split from which the prompts are taken. `samples` is the number of trajectories per prompt.

    `scored` says whether the recipe's scorers also score the images. Even if it is false, the recipe's task decides
    whether an image is right, and the judge of `evaluation.preference` compares refined images with first ones.

    `controls` says whether the two controls are also sampled. One control draws the image again without a reflection,
    and the other refines it with a reflection that was written for another prompt. The refined images are compared with
    the images of both controls. The gate (the check whether refinement really helps) needs both controls.
    """
    folder = target.resolve() if is_model_folder(target) else None
    run = Run.open(target if folder is None else folder.parent.parent)
    if folder is None:
        names = [name for name in TRAINED if run.path("models", name).is_dir()]
        if not names:
            raise RunError(f"{target}: no trained model yet; `irg-rl resume {target}` continues the run")
        folder = run.path("models", names[0])
    if run.recipe.engine.device == "cuda" and not torch.cuda.is_available():
        raise RunError(f"{run.folder}: its engine.device is cuda, but no GPU is visible: evaluate it on a GPU machine")
    torch.set_num_threads(run.recipe.engine.threads)
    asked_for = {PRESET: preset, "evaluation.preference": preference}
    if given := {name: value for name, value in asked_for.items() if value is not None}:
        run.recipe = changed_recipe(run.recipe, given, str(run.folder))
    settings = run.recipe.evaluation.model_copy(update={k: v for k, v in changes.items() if v is not None})
    prompts = held_out_prompts(run, split, changes["prompts"])
    parts = load_as(run.recipe, folder)
    needed = {name for name in (task_of(run.recipe).verdict_scorer, settings.preference) if name is not None}
    asked = None if scored else sorted(needed)
    with reward_hub(run.recipe, run.path("scorers"), asked) as hub:
        measured = Evaluator(run, settings, hub, samples).evaluate(parts, folder.name, prompts, controls)
    report = gate_of(run, measured.evaluation) if controls else None
    if report is not None:
        console.print(report)
    marks = [*([] if preset is None else [preset]), *([] if preference is None else [f"preference-{preference}"])]
    marks += [f"{key}{changes[key]}" for key in ("prompts", "turns") if changes[key] is not None]
    marks += [*([] if samples == 1 else [f"samples{samples}"]), *([] if controls else ["nocontrols"])]
    name = evaluation_name(folder.name, settings.seed, split, *marks)
    evaluation = replace(
        measured.evaluation, gate=report, name=name, settings={**measured.evaluation.settings, "split": split}
    )
    written = evaluation.save(out or run.path("evaluation"))
    if out is None:
        measured.keep(kept_path(run.folder, name), settings.keep_mb)
    for arm, table in evaluation.arms.items():
        console.print(f"{arm}: accuracy per turn {shown_accuracies(table)} (n={len(table)})")
    if told := shown_preference(evaluation.arms[REAL]):
        console.print(told)
    console.print(f"written: {written}")

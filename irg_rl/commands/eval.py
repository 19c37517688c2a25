"""`irg-rl eval`: evaluates a run or a checkpoint on held-out prompts."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from irg_rl.config import changed_recipe
from irg_rl.driver.compare import evaluation_name
from irg_rl.driver.evaluator import Evaluator, gate_of, held_out_prompts, shown_accuracies, shown_preference
from irg_rl.driver.prepare import load_as
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import TRAINED, Run, RunError
from irg_rl.driver.scorers import reward_hub
from irg_rl.errors import InputError
from irg_rl.evaluate.suite import REAL
from irg_rl.model.folder import is_model_folder
from irg_rl.presets import PRESET
from irg_rl.prompts import read_prompts
from irg_rl.report.kept import kept_path
from irg_rl.task import task_of
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class AskedPrompts:
    """The prompts of an evaluation. `origin` is the name of their split, or the path of their file. `mark` is added to
    the name of the results; it is empty if the prompts are those that the recipe asks for."""

    prompts: list[Prompt]
    origin: str
    mark: str = ""


def asked_for_prompts(run: Run, split: str, asked: str | None) -> AskedPrompts:
    """Return the prompts of an evaluation. `asked` is a number of prompts of the split, or the path of a JSON lines
    file of prompts. If it is None, the number is that of the recipe.

    Raises InputError if there are fewer than two prompts, or if the task cannot judge images of a prompt of the file.
    """
    if asked is None:
        return AskedPrompts(held_out_prompts(run, split), split)
    if asked.isdecimal():
        if int(asked) < 2:
            raise InputError(f"--prompts {asked}: at least 2, because a control needs another prompt's reflection")
        return AskedPrompts(held_out_prompts(run, split, int(asked)), split, f"prompts{int(asked)}")
    task = task_of(run.recipe)

    def judged(prompt: Prompt) -> None:
        if not task.judges(prompt):
            raise ValueError(f"the metadata of prompt {prompt.id!r} is not what the task {run.recipe.task} reads")

    found = read_prompts(asked, judged)
    if len(found) < 2:
        raise InputError(f"{asked}: {len(found)} prompts; at least 2, because a control needs another's reflection")
    return AskedPrompts(found, asked, f"prompts-{Path(asked).stem}")


def evaluate_target(
    target: Path,
    changes: dict[str, int | None],
    asked_prompts: str | None,
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

    `asked_prompts` is the number of prompts, or the path of a JSON lines file of prompts. If it is None, the number is
    that of the recipe. `split` is the split of the prompts, if they do not come from a file. `samples` is the number of
    trajectories per prompt.

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
    asked = asked_for_prompts(run, split, asked_prompts)
    parts = load_as(run.recipe, folder)
    needed = {name for name in (task_of(run.recipe).verdict_scorer, settings.preference) if name is not None}
    scorers = None if scored else sorted(needed)
    with reward_hub(run.recipe, run.path("scorers"), scorers) as hub:
        measured = Evaluator(run, settings, hub, samples).evaluate(parts, folder.name, asked.prompts, controls)
    report = gate_of(run, measured.evaluation) if controls else None
    if report is not None:
        console.print(report)
    marks = [*([] if preset is None else [preset]), *([] if preference is None else [f"preference-{preference}"])]
    marks += [asked.mark] if asked.mark else []
    marks += [] if changes["turns"] is None else [f"turns{changes['turns']}"]
    marks += [*([] if samples == 1 else [f"samples{samples}"]), *([] if controls else ["nocontrols"])]
    name = evaluation_name(folder.name, settings.seed, split, *marks)
    used = {**measured.evaluation.settings, "split": asked.origin}
    evaluation = replace(measured.evaluation, gate=report, name=name, settings=used)
    written = evaluation.save(out or run.path("evaluation"))
    if out is None:
        measured.keep(kept_path(run.folder, name), settings.keep_mb)
    for arm, table in evaluation.arms.items():
        console.print(f"{arm}: accuracy per turn {shown_accuracies(table)} (n={len(table)})")
    if told := shown_preference(evaluation.arms[REAL]):
        console.print(told)
    console.print(f"written: {written}")

"""Compares the model after RL with its baselines, such as the model before RL. Every run makes this comparison for
itself at its end. `irg-rl compare` compares several runs with different RL seeds."""

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.evaluate.compare import VERIFIER, BaselineComparison, best_of, compare
from irg_rl.evaluate.comparison_text import to_markdown
from irg_rl.evaluate.outcomes import Outcomes, load
from irg_rl.evaluate.suite import REAL, REDRAW, SHUFFLED
from irg_rl.learner.checkpoint import differing
from irg_rl.model.folder import WEIGHTS, is_model_folder
from rollouts.evaluation import evaluation_sampling

CONTINUED = "sft_continued"
"""Name of the stage that `irg-rl baseline` runs, and of the model folder that it makes."""
SAME = ("rl", "rewards", "sampling", "evaluation", "engine.device", "engine.dtype")
"""Settings and sections of a recipe that must be equal in all compared runs, except for rl.seed. If they differ, the
runs are not repetitions of one experiment."""


def compare_runs(
    folders: Sequence[Path],
    out: Path | None = None,
    split: str | None = None,
    against: Mapping[str, Sequence[Path]] | None = None,
) -> Path:
    """Compare RL with its baselines in these runs, print the table, and write it as JSON and Markdown. Return the
    folder of these files.

    The folder is `out`. If `out` is None, the folder is evaluation/ of the first run, and the report of the first run
    then shows the table. The files are named `comparison` for one run and `pooled` for several runs. If `split` is
    given, its name is added. So different comparisons do not overwrite the same files.

    `split` and `against` are explained in `comparison_of`.
    """
    runs = [Run.open(folder) for folder in folders]
    comparison = comparison_of(runs, split, against or {})
    folder = out or runs[0].path("evaluation")
    name = ("comparison" if len(runs) == 1 else "pooled") + ("" if split is None else f"-{split}")
    write_json(folder / f"{name}.json", comparison.to_dict())
    text = to_markdown(comparison)
    (folder / f"{name}.md").write_text(text)
    console.print(text, markup=False, soft_wrap=True)
    return folder


def comparison_of(
    runs: Sequence[Run], split: str | None = None, against: Mapping[str, Sequence[Path]] | None = None
) -> BaselineComparison:
    """Compare RL with its baselines, for each run and for all runs pooled together.

    The first baseline is the SFT checkpoint from which all runs start RL. The second is continued SFT, if a run has
    trained it. Further baselines draw several first images with the SFT checkpoint and keep the best one. One of these
    baselines draws two images. The other draws as many images as RL draws per prompt. The best image has the highest
    score of the verifier (an oracle). If a judge has scored the images, there are also baselines in which the judge
    chooses.

    `split` is the set of prompts on which the models were evaluated with `irg-rl eval --split`. None means the
    evaluations that belong to the runs themselves. `against` has more baselines: name -> paths. A path is a run, or a
    model folder inside a run. If a name has several paths, their runs must have the same RL seeds as `runs`.

    The function also counts how often wrong images are repaired. It compares the model after RL with two controls. In
    the first control, the image is drawn again without refinement. In the second control, the reflections belong to
    other prompts.
    """
    first, *others = runs
    model, *_ = [sft_model_of(run) for run in runs]
    for other in others:
        require_comparable(first, other, split)
    require_different_seeds(runs)
    rl = [replace(outcomes_of(run, "rl", split=split), seed=run.recipe.rl_seed) for run in runs]
    sft, again = (outcomes_of(first, model, arm, split) for arm in (REAL, REDRAW))
    draws = [sft, *(first_images(again, turn) for turn in range(1, again.turns))]
    equal = min(ceil(max(table.renders for table in rl)), len(draws))
    baselines: dict[str, Outcomes | Sequence[Outcomes]] = {"SFT checkpoint": sft}
    continued = next((run for run in runs if run.is_done(f"evaluate_{CONTINUED}")), None)
    if continued is not None:
        baselines["SFT continued"] = outcomes_of(continued, CONTINUED, split=split)
    scorers = [s.name for s in first.recipe.rewards.scorers if s.kind == "judge" and s.of == "image"]
    judges = [name for name in scorers if all(name in draw.rewards for draw in draws)]
    for name in (name for name in scorers if name not in judges):
        console.print(
            f"note: no best of n by {name}, which has not scored the images of {model}'s evaluation and its redraw "
            "control (`irg-rl eval --scorers`)", soft_wrap=True, markup=False,
        )  # fmt: skip
    for number in sorted({2, equal} - {1}):
        baselines[f"best of {number}"] = best_of(draws[:number], VERIFIER)
        baselines |= {f"best of {number} by {judge}": best_of(draws[:number], judge) for judge in judges}
    for name, targets in (against or {}).items():
        baselines[name] = _other_arm(first, name, targets, split, [run.recipe.rl_seed for run in runs])
    controls = {arm: [replace(outcomes_of(run, "rl", arm, split), seed=run.recipe.rl_seed) for run in runs]
                for arm in (REDRAW, SHUFFLED)}  # fmt: skip
    return compare(rl, baselines, controls)


def _other_arm(
    first: Run, name: str, targets: Sequence[Path], split: str | None, seeds: Sequence[int]
) -> Outcomes | list[Outcomes]:
    """Return the evaluation results of a baseline that the user has named: one table for a model that is the same for
    every seed of RL, such as an SFT model, otherwise a list with one table per run. `seeds` are the RL seeds of the
    compared runs. Raises RunError if a run was evaluated on other prompts than `first` or with other settings, if it
    has not been evaluated, or if several runs have other seeds."""
    tables, is_fixed = [], True
    for target in targets:
        folder = target.resolve() if is_model_folder(target) else None
        run = Run.open(target if folder is None else folder.parent.parent)
        place = prompts_place(first, split)
        if not same_file(first.folder / place, run.folder / place):
            raise RunError(f"--against {name}={target}: {run.folder} has other prompts ({place}) than {first.folder}")
        old, new = (
            (one.recipe.evaluation, evaluation_sampling(one.recipe.sampling, one.recipe.evaluation))
            for one in (first, run)
        )
        if old != new:
            raise RunError(f"--against {name}={target}: its `evaluation` differs from that of {first.folder}")
        model = folder.name if folder is not None else sft_model_of(run) if run.recipe.rl is None else "rl"
        is_fixed &= model != "rl"
        tables.append(replace(outcomes_of(run, model, split=split), seed=run.recipe.rl_seed))
    if len(tables) > 1 and sorted(table.seed for table in tables) != sorted(seeds):
        raise RunError(
            f"--against {name}: its runs have the RL seeds {sorted(table.seed for table in tables)}, the compared runs "
            f"{sorted(seeds)}: give one run, or runs with the same seeds"
        )
    return tables[0] if is_fixed and len(tables) == 1 else tables


def prompts_place(run: Run, split: str | None) -> str:
    """Return the path of the file that has the prompts of a split, relative to the run folder. If `split` is None,
    return the file of the prompts in the run's own evaluations."""
    return f"world/{split or run.recipe.evaluation.split}.jsonl"


def named_runs(given: Sequence[str]) -> dict[str, list[Path]]:
    """Return name -> paths for texts of the form NAME=PATH. Raises RunError if a text has another form."""
    found: dict[str, list[Path]] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise RunError(f"--against {text}: write NAME=RUN, as --against RAFT=runs/raft")
        found.setdefault(name, []).append(Path(path))
    return found


def sft_model_of(run: Run) -> str:
    """Return the name of the model folder that the run's last SFT stage has made. Raises RunError if the run has no
    SFT."""
    if run.sft_model is None:
        raise RunError(f"{run.folder}: the run has no SFT, so there is no SFT checkpoint to compare RL with")
    return run.sft_model


def outcomes_of(run: Run, model: str, arm: str = REAL, split: str | None = None) -> Outcomes:
    """Return the evaluation results of a model for the arm `arm`. An evaluation has three arms (kinds of trajectories):
    the real refinement and two controls. If `split` is None, the results come from the run's own evaluation. Otherwise
    they come from `irg-rl eval --split`.

    Raises RunError if the model has not been evaluated.
    """
    name = model if split is None else evaluation_name(model, run.recipe.evaluation.seed, split)
    path = run.folder / "evaluation" / f"{name}.{arm}.parquet"
    if not path.is_file():
        resume, measure = f"irg-rl resume {run.folder}", f"irg-rl eval {run.folder / 'models' / model} --split {split}"
        remedy = f"`{resume}` goes on" if split is None else f"`{measure}` does it"
        raise RunError(f"{path} is missing: {model} has not been evaluated; {remedy}")
    return load(path)


def evaluation_name(model: str, seed: int, split: str, *marks: str) -> str:
    """Return the name under which `irg-rl eval` saves the results of a model. `seed` and `split` are the seed and the
    split of the evaluation. `marks` are short texts that are added to the name. Each says that a setting differs from
    the recipe."""
    return "-".join(["eval", model, f"seed{seed}", *([] if split == "test" else [split]), *marks])


def first_images(redraw: Outcomes, turn: int) -> Outcomes:
    """Return the results of the redraw control without the turns before `turn`. The redraw control draws a new first
    image with other noise in every turn, instead of refining an image. So the image of turn `turn` becomes the first
    image of the returned results."""
    rewards = {name: scores[:, turn:] for name, scores in redraw.rewards.items()}
    return replace(redraw, correct=redraw.correct[:, turn:], score=redraw.score[:, turn:], rewards=rewards)


def require_comparable(first: Run, other: Run, split: str | None = None) -> None:
    """Raise RunError if two runs cannot be compared. The runs must agree in three respects:
    * the SFT checkpoint from which RL starts
    * the settings of RL and evaluation, except rl.seed and rl.alarms
    * the prompts of the evaluation"""
    prompts = prompts_place(first, split)
    shared = {f"set of {Path(prompts).stem} prompts": prompts, "SFT checkpoint": f"models/{first.sft_model}/{WEIGHTS}"}
    for what, place in shared.items():
        if not same_file(first.folder / place, other.folder / place):
            raise RunError(
                f"{other.folder} has another {what} ({place}) than {first.folder}: compare a run with its forks "
                "(`irg-rl fork`), which share both"
            )
    old, new = (run.recipe.model_dump(mode="json") for run in (first, other))
    changed = [c for c in differing(old, new) if f"{c[0]}.".startswith(tuple(f"{key}." for key in SAME))]
    changed = [change for change in changed if change[0] != "rl.seed" and not change[0].startswith("rl.alarms")]
    if changed:
        lines = [f"  {key}: {a!r} in {first.folder}, {b!r} in {other.folder}" for key, a, b in changed]
        raise RunError("only runs that differ in rl.seed alone can be pooled, but:\n" + "\n".join(lines))


def differ_in_seed_alone(folders: Sequence[Path]) -> bool:
    """Return whether the runs are repetitions of one experiment: they share the SFT checkpoint and all settings of
    SAME, except for rl.seed."""
    first, *others = [Run.open(folder) for folder in folders]
    try:
        for other in others:
            require_comparable(first, other)
    except RunError:
        return False
    return first.recipe.rl is not None


def require_different_seeds(runs: Sequence[Run]) -> None:
    seen: dict[int, Run] = {}
    for run in runs:
        twin = seen.setdefault(run.recipe.rl_seed, run)
        if twin is not run:
            raise RunError(
                f"{twin.folder} and {run.folder} have the same seed of RL, {run.recipe.rl_seed}: name one of them, or "
                "fork with another rl.seed"
            )


def same_file(one: Path, other: Path) -> bool:
    """Return whether both files exist and have the same content."""
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)

"""Compares the model after RL with its baselines, such as the model before RL. At its end, a run makes this comparison
for itself. `irg-rl compare` makes it for several runs with different RL seeds."""

import filecmp
from collections.abc import Sequence
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
from irg_rl.model.folder import WEIGHTS

CONTINUED = "sft_continued"
"""Name of the stage that `irg-rl baseline` runs, and of the model folder that it makes."""
SAME = ("rl", "rewards", "sampling", "evaluation", "engine.device", "engine.dtype")
"""Settings and sections of a recipe that must be equal in all compared runs, except for rl.seed. If they differ, the
runs are not repetitions of one experiment."""


def compare_runs(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Compare RL with its baselines in these runs, print the table, and write it as JSON and Markdown. Return the
    folder of these files.

    The folder is `out`. If `out` is None, the folder is evaluation/ of the first run, and the report of the first run
    then shows the table. The files are named `comparison` for one run and `pooled` for several runs. So the files of
    one comparison do not overwrite those of the other.
    """
    runs = [Run.open(folder) for folder in folders]
    comparison = comparison_of(runs)
    folder = out or runs[0].path("evaluation")
    name = "comparison" if len(runs) == 1 else "pooled"
    write_json(folder / f"{name}.json", comparison.to_dict())
    text = to_markdown(comparison)
    (folder / f"{name}.md").write_text(text)
    console.print(text, markup=False, soft_wrap=True)
    return folder


def comparison_of(runs: Sequence[Run]) -> BaselineComparison:
    """Compare RL with its baselines, for each run and for all runs pooled together.

    The first baseline is the SFT checkpoint from which all runs start RL. The second is continued SFT, if a run has
    trained it. The other baselines draw several first images with the SFT checkpoint and let an oracle choose the best
    one: the best of two, and the best of as many images as RL draws per prompt.

    The function also compares how often the model after RL repairs wrong images with how often two controls do so. In
    one control the image is drawn again without refinement. In the other the reflections belong to other prompts.
    """
    first, *others = runs
    model, *_ = [sft_model_of(run) for run in runs]
    for other in others:
        require_comparable(first, other)
    require_different_seeds(runs)
    rl = [replace(outcomes_of(run, "rl"), seed=run.recipe.rl_seed) for run in runs]
    sft, again = (outcomes_of(first, model, arm) for arm in (REAL, REDRAW))
    draws = [sft, *(first_images(again, turn) for turn in range(1, again.turns))]
    equal = min(ceil(max(table.renders for table in rl)), len(draws))
    baselines = {"SFT checkpoint": sft}
    continued = next((run for run in runs if run.is_done(f"evaluate_{CONTINUED}")), None)
    if continued is not None:
        baselines["SFT continued"] = outcomes_of(continued, CONTINUED)
    for number in sorted({2, equal} - {1}):
        baselines[f"best of {number}"] = best_of(draws[:number], VERIFIER)
    controls = {arm: [replace(outcomes_of(run, "rl", arm), seed=run.recipe.rl_seed) for run in runs]
                for arm in (REDRAW, SHUFFLED)}  # fmt: skip
    return compare(rl, baselines, controls)


def sft_model_of(run: Run) -> str:
    """Return the name of the model folder that the run's last SFT stage has made. Raises RunError if the run has no
    SFT."""
    if run.sft_model is None:
        raise RunError(f"{run.folder}: the run has no SFT, so there is no SFT checkpoint to compare RL with")
    return run.sft_model


def outcomes_of(run: Run, model: str, arm: str = REAL) -> Outcomes:
    """Return the evaluation results of a model. `arm` chooses between the real refinement and its two controls, which
    were all evaluated. The rewards are left out, because no comparison uses them.

    Raises RunError if the model has not been evaluated.
    """
    path = run.folder / "evaluation" / f"{model}.{arm}.parquet"
    if not path.is_file():
        raise RunError(f"{path} is missing: {model} has not been evaluated; `irg-rl resume {run.folder}` goes on")
    return replace(load(path), rewards={})


def first_images(redraw: Outcomes, turn: int) -> Outcomes:
    """Return the results of the redraw control without the turns before `turn`. In this control, the image of every
    turn is a new first image, drawn from other noise. So the image of `turn` becomes the first image of the result."""
    return replace(redraw, correct=redraw.correct[:, turn:], score=redraw.score[:, turn:])


def require_comparable(first: Run, other: Run) -> None:
    """Raise RunError if two runs cannot be compared. They must start RL from the same SFT checkpoint, have the same
    settings of RL and evaluation (except rl.seed), and be evaluated on the same prompts."""
    shared = {"set of test prompts": "world/test.jsonl", "SFT checkpoint": f"models/{first.sft_model}/{WEIGHTS}"}
    for what, place in shared.items():
        if not _same_file(first.folder / place, other.folder / place):
            raise RunError(
                f"{other.folder} has another {what} ({place}) than {first.folder}: compare a run with its forks "
                "(`irg-rl fork`), which share both"
            )
    old, new = (run.recipe.model_dump(mode="json") for run in (first, other))
    changed = [c for c in differing(old, new) if f"{c[0]}.".startswith(tuple(f"{key}." for key in SAME))]
    changed = [change for change in changed if change[0] != "rl.seed"]
    if changed:
        lines = [f"  {key}: {a!r} in {first.folder}, {b!r} in {other.folder}" for key, a, b in changed]
        raise RunError("only runs that differ in rl.seed alone can be pooled, but:\n" + "\n".join(lines))


def require_different_seeds(runs: Sequence[Run]) -> None:
    seen: dict[int, Run] = {}
    for run in runs:
        twin = seen.setdefault(run.recipe.rl_seed, run)
        if twin is not run:
            raise RunError(
                f"{twin.folder} and {run.folder} have the same seed of RL, {run.recipe.rl_seed}: name one of them, or "
                "fork with another rl.seed"
            )


def _same_file(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)

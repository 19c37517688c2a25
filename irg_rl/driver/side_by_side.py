"""Compares runs that differ in more than the RL seed: two recipes, two rewards, or RL with SFT alone. Each run is shown
with its last trained model, evaluated on the same prompts. Nothing is pooled, and every difference is paired by set of
constraints."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

from irg_rl.driver.compare import outcomes_of, prompts_place, same_file, sft_model_of
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.evaluate import intervals, metrics
from irg_rl.evaluate.comparison_text import cases, interval, table
from irg_rl.evaluate.intervals import Measure
from irg_rl.evaluate.outcomes import Outcomes
from irg_rl.learner.checkpoint import differing
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from irg_rl.studies.plates import Plate, PlateLine, lines_plate

FOLDER = "side_by_side"
UNIMPORTANT = ("name", "description", "output_dir", "budget_minutes", "tracking")
"""Settings and sections that do not change what a model learns."""
POINTS = 20
"""Largest number of points of a line in the figure of the rewards. Each is the mean over neighbouring updates."""


@dataclass(frozen=True)
class RunStanding:
    """How well the model of one run does. `gained` is its accuracy at the last turn minus that of the first run in the
    list. It is None for the first run."""

    name: str
    model: str
    accuracy: list[Measure]  # one entry per turn
    repair: Measure
    damage: Measure
    gained: Measure | None

    def to_dict(self) -> dict:
        return {
            "run": self.name,
            "model": self.model,
            "accuracy": [measure.to_dict() for measure in self.accuracy],
            "repair": self.repair.to_dict(),
            "damage": self.damage.to_dict(),
            "gained": None if self.gained is None else self.gained.to_dict(),
        }


def show_side_by_side(folders: Sequence[Path], out: Path | None = None, split: str | None = None) -> Path:
    """Compare runs, print the table, and write it as Markdown, JSON and a figure. Return the folder of these files,
    which is `out` or the folder side_by_side of the first run. `split` is the set of prompts on which the models were
    evaluated with `irg-rl eval --split`. If it is None, the evaluations of the runs themselves are compared.

    Raises RunError if a run has not been evaluated, or if it has other prompts than the first run.
    """
    runs = [Run.open(folder) for folder in folders]
    names = _names(runs)
    require_same_prompts(runs, split)
    models = [model_of(run) for run in runs]
    tables = in_common([outcomes_of(run, model, split=split) for run, model in zip(runs, models)])
    standings = [
        _standing(name, model, own, None if own is tables[0] else tables[0])
        for name, model, own in zip(names, models, tables)
    ]
    settings = settings_that_differ(runs)
    folder = out or runs[0].path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [standing.to_dict() for standing in standings]
    write_json(folder / f"{FOLDER}.json", {"kind": FOLDER, "rows": rows, "settings": settings})
    text = to_markdown(standings, names, settings)
    (folder / f"{FOLDER}.md").write_text(text, encoding="utf-8")
    curves = [] if rewards_differ(settings) else [reward_curve(run) for run in runs]
    stamp = f"{len(tables[0])} trajectories of the split {split or runs[0].recipe.evaluation.split}"
    plate = _plate(standings, curves, stamp)
    (folder / f"{FOLDER}.png").write_bytes(plate.png)
    console.print(text, soft_wrap=True)
    return folder


def model_of(run: Run) -> str:
    """Return the name of the model that a run has trained last: after RL, or after its last SFT stage if the recipe has
    no RL."""
    return "rl" if run.recipe.rl is not None else sft_model_of(run)


def require_same_prompts(runs: Sequence[Run], split: str | None) -> None:
    first, *others = runs
    place = prompts_place(first, split)
    for other in others:
        if not same_file(first.folder / place, other.folder / prompts_place(other, split)):
            raise RunError(
                f"{other.folder} was evaluated on other prompts ({place}) than {first.folder}: evaluate both on the "
                "same ones"
            )


def in_common(tables: Sequence[Outcomes]) -> list[Outcomes]:
    """Return the tables with only the prompts that all of them have. Runs may have been evaluated on different numbers
    of prompts from the same file. Raises RunError if no prompt is left, or if the numbers of trajectories of a prompt
    differ."""
    shared = set.intersection(*(set(own.prompt_ids) for own in tables))
    found = [own.take([row for row, name in enumerate(own.prompt_ids) if name in shared]) for own in tables]
    if not shared or any(one.prompt_ids != other.prompt_ids for one, other in pairwise(found)):
        raise RunError(
            f"the runs have {len(shared)} evaluated prompts in common, with different numbers of trajectories: "
            "evaluate all of them with the same --samples"
        )
    return found


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[object]]:
    """Return the settings in which the runs differ: name -> the value in each run."""
    recipes = [run.recipe.model_dump(mode="json", exclude=set(UNIMPORTANT)) for run in runs]
    names = {name for other in recipes[1:] for name, _, _ in differing(recipes[0], other)}
    return {name: [_value(recipe, name) for recipe in recipes] for name in sorted(names)}


def rewards_differ(settings: dict[str, list[object]]) -> bool:
    """Return whether the runs have different rewards. Then their curves cannot be compared, and are not drawn."""
    return any(name.partition(".")[0] == "rewards" for name in settings)


def reward_curve(run: Run) -> list[tuple[int, float]]:
    """Return (update, mean reward of the last images) for every RL update that logged it."""
    rows = [row for row in read_metrics(run.folder / METRICS) if row["stage"] == "rl"]
    points = [(row["step"], row.get("reward/last")) for row in rows]
    return [(step, value) for step, value in points if isinstance(value, float | int) and isfinite(value)]


def to_markdown(standings: Sequence[RunStanding], names: Sequence[str], settings: dict[str, list[object]]) -> str:
    turns = min(len(standing.accuracy) for standing in standings)
    parts = [
        "Right at each turn",
        table(
            ["run", "model", *(f"turn {turn + 1}" for turn in range(turns)), "n (sets)"],
            [
                [s.name, s.model, *(interval(own) for own in s.accuracy[:turns]), cases(s.accuracy[-1])]
                for s in standings
            ],
        ),
        "Repair, damage, and the difference from the first run at the last turn",
        table(["run", "repair", "n (sets)", "damage", "n (sets)", "difference"], [_kept(s) for s in standings]),
        "Settings that differ",
        table(["setting", *names], [[name, *map(_shown, values)] for name, values in settings.items()])
        if settings else "none",
        "All intervals: 95 %, clustered by set of constraints. Differences are paired by set. Each run is one run: no "
        "interval says how another seed would do."
        + " The runs have different rewards, so the figure has no curves of them." * rewards_differ(settings),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _standing(name: str, model: str, own: Outcomes, first: Outcomes | None) -> RunStanding:
    last = own.turns - 1
    final = metrics.accuracy(own, last)
    return RunStanding(
        name=name,
        model=model,
        accuracy=[intervals.proportion(metrics.accuracy(own, turn)) for turn in range(own.turns)],
        repair=intervals.proportion(metrics.repair(own, last)),
        damage=intervals.proportion(metrics.damage(own, last)),
        gained=None if first is None else intervals.difference(final, metrics.accuracy(first, first.turns - 1)),
    )


def _kept(standing: RunStanding) -> list[str]:
    gained = "-" if standing.gained is None else interval(standing.gained, signed=True)
    repair, damage = standing.repair, standing.damage
    return [standing.name, interval(repair), cases(repair), interval(damage), cases(damage), gained]


def _plate(standings: Sequence[RunStanding], curves: Sequence[list[tuple[int, float]]], stamp: str) -> Plate:
    right = [PlateLine(s.name, range(1, len(s.accuracy) + 1), s.accuracy) for s in standings]
    panels = {"right, by turn": right}
    rewards = [
        PlateLine(standing.name, *_thinned(curve), colour=number)
        for number, (standing, curve) in enumerate(zip(standings, curves or [[]] * len(standings))) if curve
    ]  # fmt: skip
    if rewards:
        panels["reward of last images, by RL update"] = rewards
    return lines_plate(
        FOLDER, "Runs side by side", "", stamp, panels, x_label="turn or update", y_label="share or reward",
        whole_x=True,
    )  # fmt: skip


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[list[float], list[Measure]]:
    """Return at most POINTS points of a curve: the means of neighbouring updates, without intervals."""
    size = -(-len(curve) // POINTS)
    parts = [curve[begin : begin + size] for begin in range(0, len(curve), size)]
    means = [Measure(sum(value for _, value in part) / len(part), len(part)) for part in parts]
    return [sum(step for step, _ in part) / len(part) for part in parts], means


def _names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: the name of its folder, or its path if two folders have the same name."""
    short = [run.folder.resolve().name for run in runs]
    if len(set(short)) == len(short):
        return short
    paths = [str(run.folder) for run in runs]
    if len(set(paths)) < len(paths):
        raise RunError(f"{', '.join(paths)}: the same run twice")
    return paths


def _value(settings: dict, name: str) -> object:
    value: object = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _shown(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"

"""Base class of the studies that train models. Such a study compares several arms (variants of the training settings).
For each pair of an arm and a seed there is a fork: a copy of one run, which trains with changed settings. The trained
fork is then evaluated, and the study compares the results of these evaluations.

This module only says which settings each fork changes. The caller creates the forks, trains and evaluates them, and
passes the results back. If the caller is interrupted, the training of a fork later continues from its last checkpoint.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from irg_rl.errors import InputError
from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Measure
from irg_rl.evaluate.outcomes import Outcomes
from irg_rl.studies import measures
from irg_rl.studies.bench import Bench, Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.grid import cell_name
from irg_rl.studies.plates import Plate, PlateLine, dots_plate, lines_plate
from irg_rl.studies.settings import StudySettings
from irg_rl.studies.study import Cell, Study, TextTable

S = TypeVar("S", bound=StudySettings)
BLOCKS = 6
"""Largest number of points in a curve that shows rewards over the RL updates."""


@dataclass(frozen=True)
class ForkPlan:
    """How one fork (a copy of the run that trains with changed settings) differs from the original run. `changes` maps
    the names of settings, such as `rl.seed`, to their new values. `anew` is True if the fork repeats SFT, and False if
    it repeats only RL."""

    changes: dict[str, Any]
    anew: bool = False


@dataclass(frozen=True)
class Trained:
    """Evaluation results of a fork (a copy of a run that trains with changed settings). `after` is the evaluation of
    the trained checkpoint. `before` is the evaluation of the checkpoint from which RL started. If the fork repeats SFT
    too, there is no such evaluation, and `before` is None."""

    before: Outcomes | None
    after: Outcomes
    during: Sequence[FrameRow] = ()
    """Rewards during training, one row per RL update. A row has the number of the update (`update`), the mean reward of
    the first images (`first`) and the mean reward of the last images (`last`)."""


Train = Callable[[str, ForkPlan], Trained]
"""A function that trains and evaluates one fork (a copy of a run with changed settings). It takes a name for the fork
and its plan, and returns the evaluation results. It creates the fork, or continues it if it exists."""


class Forks(Study[S], Generic[S]):
    """Base class of the studies that train forks of a run (copies of it that train with changed settings). The method
    `plans` says which settings each fork changes."""

    trains = True
    unit = "forks"

    def __init__(self, bench: Bench, settings: S, train: Train | None = None) -> None:
        super().__init__(bench, settings)
        if len(bench.subjects) != 1:
            raise InputError(f"the study {self.name!r} forks one run: name one, not {len(bench.subjects)}")
        self.train = train

    @abstractmethod
    def plans(self) -> dict[tuple[str, int], ForkPlan]:
        """Return the plan of each fork (copy of the run with changed settings). The keys of the dict are pairs (name of
        the arm, seed); an arm is one variant of the training settings."""

    def cells(self) -> list[Cell]:
        (subject,) = self.bench.subjects
        recipe = subject.recipe.model_dump(mode="json", exclude={"output_dir", "description", "budget_minutes"})
        return [
            Cell({"arm": arm, "seed": seed}, 1, {
                "run": str(subject.path.parent.parent), "recipe": recipe, "changes": plan.changes, "anew": plan.anew,
            })
            for (arm, seed), plan in self.plans().items()
        ]  # fmt: skip

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        assert self.train is not None, "this study was made without a way to train"
        made = self.train(f"{self.name}-{cell_name(self, cell)}", self.plans()[cell.at["arm"], cell.at["seed"]])
        tick(1)
        before = [] if made.before is None else _rows("before", made.before)
        during = [{"when": "during", **update} for update in made.during]
        return before + _rows("after", made.after) + during

    def stamp(self, frame: Frame, samples: int = 1) -> str:
        return super().stamp(frame.where(when="after"), samples)


def _rows(when: str, table: Outcomes) -> list[FrameRow]:
    return [
        {
            "when": when, "row": row, "prompt": table.prompt_ids[row], "turn": turn + 1,
            "correct": bool(table.correct[row, turn]), "score": float(table.score[row, turn]),
            "stopped": bool(table.stopped[row, turn]),
        }
        for row in range(len(table)) for turn in range(table.turns)
    ]  # fmt: skip


def rights(rows: Frame) -> tuple[np.ndarray, list[str]]:
    """Return two results: a boolean array [trajectory, turn] that is True for correct images, and a list with the
    prompt id of each trajectory. `rows` is a table of evaluation results. The trajectories of all its seeds are in the
    array."""
    table, lines = rows.grid("correct", ("seed", "row", "prompt"), "turn")
    return table.astype(bool), [key[2] for key in lines]


def by_turn(frame: Frame) -> dict[str, list[Measure]]:
    """Return, for every arm (variant of the training settings), the shares of correct images after training: a list
    with one share per turn."""
    found = {}
    for (arm,), rows in frame.where(when="after").groups("arm"):
        table, prompts = rights(rows)
        found[arm] = [measures.share(column, prompts) for column in table.T]
    return found


def gained(frame: Frame, reference: str | None) -> dict[str, Measure]:
    """Return, for every arm (variant of the training settings), a difference between two shares of correct images at
    the last turn. The first share is measured after the training of this arm, and the second share is subtracted. If
    `reference` is the name of an arm, the second share is measured after the training of that arm. If `reference` is
    None, the second share is measured at the checkpoint where the training of this arm started. The difference is
    paired over prompts and uses only the seeds of this arm."""
    found = {}
    for (arm,), rows in frame.groups("arm"):
        own, prompts = rights(rows.where(when="after"))
        other = rows.where(when="before") if reference is None else frame.where(when="after", arm=reference)
        against, theirs = rights(other.where(np.isin(other["seed"], rows["seed"])))
        found[arm] = intervals.difference(
            measures.terms(own[:, -1], prompts), measures.terms(against[:, -1], theirs)
        )
    return found


def turn_plate(name: str, title: str, frame: Frame, stamp: str) -> Plate:
    found = by_turn(frame)
    lines = [PlateLine(arm, range(1, len(shares) + 1), shares) for arm, shares in found.items()]
    begun = frame.where(when="before", arm=frame.values("arm")[0])
    if len(begun):
        before, prompts = rights(begun)
        shares = [measures.share(column, prompts) for column in before.T]
        lines.append(PlateLine("before", range(1, len(shares) + 1), shares, dashed=True))
    caption = "Held-out prompts, learned stop: the image in hand after each turn. Seeds are pooled."
    return lines_plate(name, title, caption, stamp, {"": lines}, x_label="turn", y_label="share right", whole_x=True)


def reward_plate(name: str, title: str, frame: Frame, origin: str) -> Plate | None:
    """Draw the mean rewards during RL as curves over the RL updates, and return the figure. The updates are divided
    into at most BLOCKS consecutive blocks, and each block gives one point. If possible, a block has at least two
    updates. Return None if no fork (copy of a run with changed settings) sampled images during RL. `origin` is a text
    with the commits and the recipe digests, which is printed below the figure."""
    rows = frame.where(when="during")
    if not len(rows):
        return None
    updates = np.unique(rows["update"])
    stretches = np.array_split(updates, min(BLOCKS, max(1, len(updates) // 2)))
    arms = {arm: own for (arm,), own in rows.groups("arm")}
    panels = {}
    for seeds in dict.fromkeys(_seeds(own) for own in arms.values()):
        for image in ("first", "last"):
            panels[f"{image} image, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] = [
                PlateLine(arm, [float(stretch.mean()) for stretch in stretches],
                     [_reward(own.where(np.isin(own["seed"], seeds)), image, s) for s in stretches], colour=number)
                for number, (arm, own) in enumerate(arms.items()) if set(seeds) <= set(_seeds(own))
            ]  # fmt: skip
    caption = (
        "Mean reward of all images that RL drew, for its own prompts at its own temperature, groups that were not "
        "trained on too. Each point is the mean over a stretch of updates; its interval is a bootstrap over updates. "
        "Seeds of a panel are pooled; each has prompts of its own, so arms stand beside each other where they share "
        "seeds. Arms have equal updates: who draws more groups anew renders more."
    )
    stamp = f"updates {updates[0]:g} to {updates[-1]:g} | seeds of RL {', '.join(map(str, _seeds(rows)))} | {origin}"
    return lines_plate(name, title, caption, stamp, panels, x_label="RL update", y_label="mean reward")


def _seeds(rows: Frame) -> tuple[int, ...]:
    return tuple(sorted(set(rows["seed"].tolist())))


def _reward(rows: Frame, image: str, updates: np.ndarray) -> Measure:
    own = rows.where(np.isin(rows["update"], updates))
    return measures.mean(own[image].astype(float), [f"{seed}/{update}" for seed, update in own.keys("seed", "update")])


def gain_plate(name: str, title: str, caption: str, frame: Frame, reference: str | None, stamp: str) -> Plate:
    found = gained(frame, reference)
    against = "its SFT checkpoint" if reference is None else reference
    return dots_plate(name, title, caption, stamp, {"last turn": found}, rows=list(found),
                      x_label=f"share right less that of {against}", zero=True)  # fmt: skip


def arm_table(frame: Frame, reference: str | None, seeds: Sequence[int]) -> TextTable:
    turns, gains = by_turn(frame), gained(frame, reference)
    width = max(map(len, turns.values()))
    rows = []
    for arm, shares in turns.items():
        own = frame.where(when="after", arm=arm)
        each = ", ".join(f"{seed}: {rights(own.where(seed=seed))[0][:, -1].mean():.3f}" for seed in own.values("seed"))
        rows.append([arm, *map(measures.words, shares), measures.words(gains[arm], "+.3f"), each])
    headings = ["arm", *(f"turn {turn + 1}" for turn in range(width)), "gain at the last turn", "each seed"]
    note = f"Seeds {', '.join(map(str, seeds))}; the gain is paired over prompts, seeds pooled."
    return TextTable("Share right by turn", headings, rows, note)

"""Evaluated trajectories as arrays, with one row per trajectory and one column per turn.

A trajectory is one prompt with its images and texts. Turn 0 is the first image. A trajectory that stopped keeps its
last image, so every row has a value in every column. Accuracy at turn k is the accuracy of the newest image that a user
has after k refinements.

Letters in shapes: N trajectories, T turns, H height, W width in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from irg_rl.errors import InputError
from irg_rl.task import Pixels, Verdict
from irg_rl.trajectory import Prompt, Trajectory


class BothOrders(Protocol):
    """A judge's comparison of two images, A and B. The judge was asked twice: with A before B, and with B before A.
    `first` is the judge's preference for A, from 0 (B is better) to 1 (A is better). `consistent` says whether the
    judge chose the same image both times."""

    first: float
    consistent: bool


Verify = Callable[[list[Pixels], list[Prompt]], Sequence[Verdict | None]]
"""Type of a function that takes images and their prompts, and returns one verdict per image: whether the image is
right, and a score. An entry is None if there is no verdict."""

CheckReflection = Callable[[str, Pixels, Prompt], bool | None]
"""Type of a function that takes a reflection, the image that it is about, and the prompt. It returns whether the
reflection is true of the image, or None if this is not known."""

Prefer = Callable[[list[Prompt], list[Pixels], list[Pixels]], Sequence[BothOrders | None]]
"""Type of a function that takes prompts, one image per prompt, and a second image per prompt. It returns a comparison
of the two images for each prompt. An entry is None if the judge failed."""


@dataclass(frozen=True)
class Outcomes:
    """Results of one arm of an evaluation for one seed, as a table with one row per trajectory and one column per turn.
    An arm is one way to continue from the same first images: `real` is the model's own refinement, and controls are for
    example `redraw` and `shuffled`."""

    arm: str
    seed: int
    prompt_ids: list[str]
    sets: list[str]  # name of each row's set of constraints (`set_of`); intervals count a set as one case
    tasks: list[str]
    correct: Bool[np.ndarray, "N T"]  # False if wrong or if there is no verdict
    score: Float[np.ndarray, "N T"]  # nan: no verdict
    stopped: Bool[np.ndarray, "N T"]  # True: stopped at or before this turn, so the image is older
    reflection_correct: Float[np.ndarray, "N T"]  # 1 or 0; nan: no reflection, or not known
    preference: Float[np.ndarray, "N"]  # last image over first, in [0, 1]; nan: only one image, or the judge failed
    consistent: Float[np.ndarray, "N"]  # 1: judge named the same image in both orders, 0: it did not; nan as above
    rewards: dict[str, Float[np.ndarray, "N T"]] = field(default_factory=dict)  # nan: the scorer failed
    refines: bool = True  # False: columns after the first are further first images, not refinements

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def turns(self) -> int:
        return self.correct.shape[1]

    @property
    def known(self) -> Bool[np.ndarray, "N T"]:
        """Boolean array: True if the image of this trajectory and turn has a verdict. An image without a verdict counts
        neither as right nor as wrong."""
        return np.isfinite(self.score)

    @property
    def renders(self) -> float:
        """Mean number of images drawn per trajectory. A fair comparison of models needs equal numbers."""
        return float((~self.stopped).sum(1).mean())

    def take(self, rows: Bool[np.ndarray, "N"] | Sequence[int]) -> "Outcomes":
        """Return a copy of the table with only the given rows. `rows` is a boolean mask, or a list of row numbers in
        the wanted order."""
        index = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            prompt_ids=[self.prompt_ids[i] for i in index],
            sets=[self.sets[i] for i in index],
            tasks=[self.tasks[i] for i in index],
            correct=self.correct[index],
            score=self.score[index],
            stopped=self.stopped[index],
            reflection_correct=self.reflection_correct[index],
            preference=self.preference[index],
            consistent=self.consistent[index],
            rewards={name: table[index] for name, table in self.rewards.items()},
        )


def collect(
    trajectories: Sequence[Trajectory],
    verify: Verify,
    *,
    turns: int,
    arm: str,
    seed: int,
    check_reflection: CheckReflection | None = None,
    prefer: Prefer | None = None,
) -> Outcomes:
    """Judge every image of every trajectory with the function `verify`. Return the verdicts as a table with one row per
    trajectory and one column per turn.

    `arm` and `seed` are stored with the table; an arm is one way to continue from the same first images, for example
    the model's own refinement. `check_reflection` judges the reflections. `prefer` compares the last image of each
    trajectory with its first one. If one of these two functions is None, its values are nan.

    Raises ValueError if a trajectory has more than `turns` images. Also raises ValueError if a trajectory has fewer
    images, although it did not stop.
    """
    for trajectory in trajectories:
        _check_length(trajectory, turns)
    rows = [row for row, t in enumerate(trajectories) for _ in t.images]
    columns = [image.turn for t in trajectories for image in t.images]
    images = [pixels for t in trajectories for pixels in drawn_images(t)]
    verdicts = verify(images, [trajectories[row].prompt for row in rows])
    if len(verdicts) != len(images):
        raise ValueError(f"the verifier returned {len(verdicts)} verdicts for {len(images)} images")

    shape = (len(trajectories), turns)
    drawn, correct, score = np.zeros(shape, bool), np.zeros(shape, bool), np.full(shape, np.nan)
    drawn[rows, columns] = True
    correct[rows, columns] = [verdict is not None and verdict.correct for verdict in verdicts]
    score[rows, columns] = [np.nan if verdict is None else verdict.score for verdict in verdicts]
    last = _last_drawn(drawn)
    preference, consistent = _preferences(trajectories, prefer)
    return Outcomes(
        arm=arm,
        seed=seed,
        prompt_ids=[t.prompt.id for t in trajectories],
        sets=[set_of(t.prompt) for t in trajectories],
        tasks=[str(t.prompt.metadata.get("tag", "")) for t in trajectories],
        correct=np.take_along_axis(correct, last, 1),
        score=np.take_along_axis(score, last, 1),
        stopped=~drawn,
        reflection_correct=_reflections(trajectories, check_reflection, turns),
        preference=preference,
        consistent=consistent,
        rewards=_rewards(trajectories, last),
    )


def set_of(prompt: Prompt) -> str:
    """Return the name of the prompt's set of constraints: the field `set` of its metadata, or its id if there is no
    such field. Prompts that ask for the same thing in other words have the same set."""
    return str(prompt.metadata.get("set", prompt.id))


def drawn_images(trajectory: Trajectory) -> list[Pixels]:
    """Return the images of a trajectory in the order of turns."""
    return [image.pixels.cpu().numpy() for image in trajectory.images]


def _check_length(trajectory: Trajectory, turns: int) -> None:
    drawn = [image.turn for image in trajectory.images]
    if drawn != list(range(len(drawn))) or not drawn:
        raise ValueError(
            f"prompt {trajectory.prompt.id!r}: images of turns {drawn}; expected 0, 1, 2, ... without gaps"
        )
    if len(drawn) > turns or (len(drawn) < turns and not trajectory.stopped):
        said = "stopped" if trajectory.stopped else "did not stop"
        raise ValueError(f"prompt {trajectory.prompt.id!r}: {len(drawn)} images and {said}; expected {turns} turns")


def _last_drawn(drawn: Bool[np.ndarray, "N T"]) -> np.ndarray:
    """Return, for each trajectory and turn, the number of the turn in which its newest image was drawn. The shape is
    (N, T)."""
    return np.maximum.accumulate(np.where(drawn, np.arange(drawn.shape[1]), 0), axis=1)


def _reflections(
    trajectories: Sequence[Trajectory], check: CheckReflection | None, turns: int
) -> Float[np.ndarray, "N T"]:
    """Return the verdicts on the reflections, with one row per trajectory and one column per turn: 1 (true of the
    image), 0 (not true), or nan (no verdict). Column k has the verdict on the reflection about image k - 1."""
    table = np.full((len(trajectories), turns), np.nan)
    if check is None:
        return table
    for row, trajectory in enumerate(trajectories):
        for text in trajectory.texts:
            if 1 <= text.turn < turns:
                seen = drawn_images(trajectory)[text.turn - 1]
                found = check(text.text, seen, trajectory.prompt)
                table[row, text.turn] = np.nan if found is None else found
    return table


def _preferences(
    trajectories: Sequence[Trajectory], prefer: Prefer | None
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    preference, consistent = np.full((2, len(trajectories)), np.nan)
    refined = [row for row, t in enumerate(trajectories) if t.turns > 1]
    if prefer is None or not refined:
        return preference, consistent
    images = [drawn_images(trajectories[row]) for row in refined]
    prompts = [trajectories[row].prompt for row in refined]
    answers = prefer(prompts, [drawn[-1] for drawn in images], [drawn[0] for drawn in images])
    for row, answer in zip(refined, answers, strict=True):
        if answer is not None:
            preference[row], consistent[row] = answer.first, answer.consistent
    return preference, consistent


def _rewards(trajectories: Sequence[Trajectory], last: np.ndarray) -> dict[str, Float[np.ndarray, "N T"]]:
    names = sorted({name for t in trajectories for name in t.rewards})
    tables = {name: np.full(last.shape, np.nan) for name in names}
    for row, trajectory in enumerate(trajectories):
        for name, values in trajectory.rewards.items():
            for turn, value in enumerate(values):
                if value is not None:
                    tables[name][row, turn] = value
    return {name: np.take_along_axis(table, last, 1) for name, table in tables.items()}


def save(outcomes: Outcomes, path: Path) -> None:
    """Write the table to the parquet file `path`, with one row per trajectory and turn. The file can be read without
    this program."""
    n, turns = outcomes.correct.shape
    columns = {
        "prompt_id": np.repeat(np.array(outcomes.prompt_ids, dtype=object), turns),
        "set": np.repeat(np.array(outcomes.sets, dtype=object), turns),
        "task": np.repeat(np.array(outcomes.tasks, dtype=object), turns),
        "row": np.repeat(np.arange(n), turns),
        "turn": np.tile(np.arange(turns), n),
        "correct": outcomes.correct.ravel(),
        "score": outcomes.score.ravel(),
        "stopped": outcomes.stopped.ravel(),
        "reflection_correct": outcomes.reflection_correct.ravel(),
        "preference": np.repeat(outcomes.preference, turns),
        "consistent": np.repeat(outcomes.consistent, turns),
        **{f"reward/{name}": table.ravel() for name, table in outcomes.rewards.items()},
    }
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.replace_schema_metadata({"arm": outcomes.arm, "seed": str(outcomes.seed), "turns": str(turns)})
    aside = path.with_name(path.name + ".tmp")
    pq.write_table(table, aside)
    aside.replace(path)


def load(path: Path) -> Outcomes:
    """Read a table from a file that `save` has written. Raises InputError if the file does not contain such a table."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as parquet ({error}); evaluate again") from error
    about = table.schema.metadata or {}
    if b"arm" not in about or b"turns" not in about:
        raise InputError(f"{path} is not a table of outcomes: write one with evaluate.outcomes.save")
    if "set" not in table.column_names:
        raise InputError(f"{path} does not say which set of constraints each row belongs to: evaluate again")
    turns = int(about[b"turns"])
    grid = {
        name: table[name].to_numpy().reshape(-1, turns)
        for name in table.column_names
        if name not in ("prompt_id", "set", "task")
    }
    return Outcomes(
        arm=about[b"arm"].decode(),
        seed=int(about[b"seed"]),
        prompt_ids=table["prompt_id"].to_pylist()[::turns],
        sets=table["set"].to_pylist()[::turns],
        tasks=table["task"].to_pylist()[::turns],
        correct=grid["correct"],
        score=grid["score"],
        stopped=grid["stopped"],
        reflection_correct=grid["reflection_correct"],
        preference=grid["preference"][:, 0],
        consistent=grid["consistent"][:, 0],
        rewards={name.removeprefix("reward/"): grid[name] for name in grid if name.startswith("reward/")},
    )

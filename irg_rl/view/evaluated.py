"""Reads an evaluation of a run as a table with one row per trajectory, for the list of samples.

The results of all trajectories are in `evaluation/NAME.ARM.parquet` (see evaluate/outcomes.py). An arm is the model's
own refinement (`real`) or a control. Texts and images are read by the module `pictures`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from irg_rl.errors import InputError
from irg_rl.text_in import read_lines
from irg_rl.view.run_files import UNREADABLE, Remembered, RunFiles
from irg_rl.view.shown import outcome
from irg_rl.view.values import number, section

REAL = "real"
UPPER, LOWER = 2 / 3, 1 / 3
"""Scorers disagree about an image if one scorer ranks it in the upper third of the evaluation, and another in the lower
third."""


@dataclass(frozen=True)
class EvaluatedRow:
    """Results of one trajectory of one arm. The lists have one entry per drawn image: the verdict (None: no verdict),
    the score of the verdict, and the scores of each scorer (None: failed). `reflections` says for each refinement
    whether its reflection was true of the image before; None means that this is not known."""

    row: int
    prompt_id: str
    sample: int
    task: str
    correct: list[bool | None]
    score: list[float | None]
    stopped: bool
    reflections: list[bool | None] = field(default_factory=list)
    rewards: dict[str, list[float | None]] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)  # scorer -> rank of the last image in [0, 1], 1 is best

    @property
    def images(self) -> int:
        return len(self.correct)

    @property
    def outcome(self) -> str:
        return outcome(self.correct)

    @property
    def disagreement(self) -> float:
        """Largest difference between the ranks that two scorers give to the last image, in [0, 1]."""
        return max(self.ranks.values()) - min(self.ranks.values()) if len(self.ranks) > 1 else 0.0

    @property
    def scorers_disagree(self) -> bool:
        return len(self.ranks) > 1 and max(self.ranks.values()) >= UPPER and min(self.ranks.values()) <= LOWER

    @property
    def change(self) -> float | None:
        """Score of the last image minus score of the first image, or None if one of them has no score."""
        first, last = (self.score[0], self.score[-1]) if self.score else (None, None)
        return None if first is None or last is None else last - first


@dataclass(frozen=True)
class EvaluationTable:
    """One evaluation of a run. `arms` maps the name of each arm to its rows. Row k of each arm belongs to the same
    prompt. `prompts` maps the id of a prompt to its text."""

    name: str
    summary: dict[str, Any]
    arms: dict[str, list[EvaluatedRow]]
    prompts: dict[str, str]

    @property
    def rows(self) -> list[EvaluatedRow]:
        return self.arms.get(REAL, [])

    @property
    def controls(self) -> list[str]:
        return [arm for arm in self.arms if arm != REAL]

    def find(self, prompt_id: str, sample: int) -> EvaluatedRow | None:
        return next((row for row in self.rows if (row.prompt_id, row.sample) == (prompt_id, sample)), None)


def evaluation_names(files: RunFiles) -> list[str]:
    """Return the names of the evaluations of a run, the newest first."""
    found = []
    for path in files.source.found("evaluation/*.json"):
        if files.mapping("evaluation", path.name).get("kind") == "evaluation":
            found.append((path.stat().st_mtime, path.stem))
    return [name for _, name in sorted(found, reverse=True)]


def read_evaluation(files: RunFiles, name: str) -> EvaluationTable | None:
    """Return an evaluation of the run, or None if there is none with this name. Tables of arms that cannot be read are
    left out, and `files.problems` says why."""
    if name not in evaluation_names(files):
        return None
    summary = files.mapping("evaluation", f"{name}.json")
    arms = {}
    for arm in [REAL, *(arm for arm in section(summary, "arms") if arm != REAL)]:
        try:
            path = files.source.path("evaluation", f"{name}.{arm}.parquet")
            if path.is_file():
                arms[arm] = _table(path)
        except UNREADABLE as error:
            files.tell(files.source.folder / "evaluation" / f"{name}.{arm}.parquet", error)
    return EvaluationTable(name, summary, arms, prompt_texts(files, summary))


def prompt_texts(files: RunFiles, summary: dict[str, Any]) -> dict[str, str]:
    """Return id -> text for the prompts of the run: those of the evaluation's split, or of all splits."""
    split = section(summary, "settings").get("split")
    texts: dict[str, str] = {}
    for path in files.source.found("world/*.jsonl"):
        if not split or path.stem == split:
            try:
                texts |= _prompts(path.resolve())
            except UNREADABLE as error:
                files.tell(path, error)
    return texts


def _read_prompts(path: Path) -> dict[str, str]:
    entries = [json.loads(line) for _, line in read_lines(path)]
    return {str(entry["id"]): str(entry["prompt"]) for entry in entries}


def _read_table(path: Path) -> list[EvaluatedRow]:
    """Read the table of one arm. Raises InputError or another error of UNREADABLE if it is damaged."""
    table = pq.read_table(path)
    turns = int((table.schema.metadata or {}).get(b"turns", b"0"))
    if turns < 1 or len(table) % turns:
        raise InputError(f"{path} is not a table of an evaluation: evaluate again")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    scorers = [name for name in columns if name.startswith("reward/")]
    seen: Counter[str] = Counter()
    rows = []
    for begin in range(0, len(table), turns):
        place = range(begin, begin + turns)
        drawn = [i for i in place if not columns["stopped"][i]]
        score = [number(columns["score"][i]) for i in drawn]
        prompt_id = str(columns["prompt_id"][begin])
        rows.append(
            EvaluatedRow(
                row=begin // turns,
                prompt_id=prompt_id,
                sample=seen[prompt_id],
                task=str(columns["task"][begin]),
                correct=[None if value is None else bool(columns["correct"][i]) for i, value in zip(drawn, score)],
                score=score,
                stopped=len(drawn) < turns,
                reflections=[_truth(columns["reflection_correct"][i]) for i in place[1 : len(drawn) + 1]],
                rewards={name.removeprefix("reward/"): [number(columns[name][i]) for i in drawn] for name in scorers},
            )
        )
        seen[prompt_id] += 1
    return _ranked(rows)


def _truth(value: Any) -> bool | None:
    known = number(value)
    return None if known is None else known == 1


def _ranked(rows: Sequence[EvaluatedRow]) -> list[EvaluatedRow]:
    """Fill in `ranks`: for each scorer, the rank of a row's last image among the last images of all rows. Equal scores
    have their mean rank. The worst image has a rank near 0, the best one near 1."""
    for name in {name for row in rows for name in row.rewards}:
        known = [(row, row.rewards[name][-1]) for row in rows if row.rewards.get(name)]
        pairs = [(row, value) for row, value in known if value is not None]
        values = np.sort([value for _, value in pairs])
        if len(pairs) < 2 or values[0] == values[-1]:
            continue
        for row, value in pairs:
            below, up_to = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
            row.ranks[name] = float((below + up_to) / 2 / len(values))
    return list(rows)


_prompts = Remembered(_read_prompts)
_table = Remembered(_read_table)

"""What a study is: a grid of cells, a way to measure each, and what all of them together show."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from irg_rl.studies.bench import Bench, Tick
from irg_rl.studies.frame import Frame, Row
from irg_rl.studies.plates import Plate
from irg_rl.studies.settings import StudySettings

S = TypeVar("S", bound=StudySettings)


@dataclass(frozen=True)
class Cell:
    """One place of a grid. `at` names it and becomes columns of its rows; `work` counts what its bar counts;
    `depends` is all else that its rows depend on."""

    at: dict[str, Any]
    work: int
    depends: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.at.items())

    def digest(self, study: str) -> str:
        """First 12 hex digits of the sha256 of all that the rows depend on."""
        content = json.dumps([study, self.at, self.depends], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TextTable:
    """Headings and rows as they are printed."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What a study shows: one sentence, figures with one message each, tables."""

    headline: str
    plates: Sequence[Plate]
    tables: Sequence[TextTable]


class Study(ABC, Generic[S]):
    """`needs_world`: it makes or degrades things of the shapes world and means nothing elsewhere. `trains`: its cells
    are forks of a run, made by whoever starts the study and measured from what they left."""

    name: ClassVar[str]
    question: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]]
    needs_world: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    unit: ClassVar[str] = "images"
    """What `Cell.work` counts."""

    def __init__(self, bench: Bench, settings: S) -> None:
        self.bench, self.settings = bench, settings

    @abstractmethod
    def cells(self) -> list[Cell]:
        """All places of the grid, in the order in which they are measured."""

    @abstractmethod
    def measure(self, cell: Cell, tick: Tick) -> list[Row]:
        """The rows of one place, without the columns of `cell.at`."""

    @abstractmethod
    def findings(self, frame: Frame) -> Findings:
        """From the rows of all cells, each with the `commit` that measured it."""

    def stamp(self, frame: Frame, samples: int = 1) -> str:
        """What a figure of these rows rests on: n, seeds, the commits that measured them, and recipe digests."""
        each = "" if samples == 1 else f" x {samples} samples"
        return f"n = {len(frame.values('prompt'))} prompts{each} | seed {self.bench.seed} | {self.origin(frame)}"

    def origin(self, frame: Frame) -> str:
        return f"commit {', '.join(frame.values('commit'))} | recipe {', '.join(self.bench.digests)}"

    def depends(self, *subjects: str) -> dict[str, Any]:
        """What every cell depends on: prompts, seed and judges, and the subjects it samples from."""
        prompts = json.dumps([[p.id, p.text, p.metadata] for p in self.bench.prompts], sort_keys=True)
        return {
            "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:12],
            "seed": self.bench.seed,
            "rewards": self.bench.subjects[0].recipe.rewards.model_dump(mode="json"),
            "subjects": [self.bench.subject(label).identity() for label in subjects],
        }

"""Base class of studies. A study defines a grid of cells (combinations of settings), measures each cell, and draws
findings from all cells together."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from irg_rl.studies.bench import Bench, Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import Plate
from irg_rl.studies.settings import StudySettings

S = TypeVar("S", bound=StudySettings)


@dataclass(frozen=True)
class Cell:
    """One cell of the grid of a study.

    at: names and values that identify the cell; they become columns of its rows.
    work: number of work units, for the progress bar.
    depends: everything else that the rows of the cell depend on.
    """

    at: dict[str, Any]
    work: int
    depends: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.at.items())

    def digest(self, study: str) -> str:
        """Return the first 12 hex digits of the sha256 of everything that the rows of the cell depend on."""
        content = json.dumps([study, self.at, self.depends], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """The findings of a study: a headline sentence, figures with one message each, and tables."""

    headline: str
    plates: Sequence[Plate]
    tables: Sequence[TextTable]


class Study(ABC, Generic[S]):
    """Base class of all studies. `needs_world` is True if the study works only in the shapes world. `trains` is True if
    its cells are forks of a run; the caller then makes the forks."""

    name: ClassVar[str]
    question: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]]
    needs_world: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    unit: ClassVar[str] = "images"
    """What one unit of `Cell.work` is, for the progress bar."""

    def __init__(self, bench: Bench, settings: S) -> None:
        self.bench, self.settings = bench, settings

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Return all cells of the grid, in the order in which they are measured."""

    @abstractmethod
    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        """Measure one cell. Return its rows, without the columns in `cell.at`."""

    @abstractmethod
    def findings(self, frame: Frame) -> Findings:
        """Return the findings from the rows of all cells. The column `commit` names the commit that measured each row.
        """

    def stamp(self, frame: Frame, samples: int = 1) -> str:
        """Return the line that is printed below a figure: the number of prompts, the seed, the commits that measured
        the rows, and the recipe digests."""
        each = "" if samples == 1 else f" x {samples} samples"
        return f"n = {len(frame.values('prompt'))} prompts{each} | seed {self.bench.seed} | {self.origin(frame)}"

    def origin(self, frame: Frame) -> str:
        return f"commit {', '.join(frame.values('commit'))} | recipe {', '.join(self.bench.digests)}"

    def depends(self, *subjects: str) -> dict[str, Any]:
        """Return what every cell depends on: the prompts, the seed, the rewards that judge, and the checkpoints that it
        samples from."""
        prompts = json.dumps([[p.id, p.text, p.metadata] for p in self.bench.prompts], sort_keys=True)
        return {
            "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:12],
            "seed": self.bench.seed,
            "rewards": self.bench.subjects[0].recipe.rewards.model_dump(mode="json"),
            "subjects": [self.bench.subject(label).identity() for label in subjects],
        }

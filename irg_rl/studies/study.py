"""A study: a grid of cells, how each is measured, and the findings of all cells together."""

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
    """One cell of a grid.

    at: names the cell; becomes columns of its rows. work: units of work, for the progress bar. depends: everything else
    that its rows depend on.
    """

    at: dict[str, Any]
    work: int
    depends: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.at.items())

    def digest(self, study: str) -> str:
        """First 12 hex digits of the sha256 of everything that the rows depend on."""
        content = json.dumps([study, self.at, self.depends], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TextTable:
    """A table of texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """The findings of a study: one sentence, figures with one message each, tables."""

    headline: str
    plates: Sequence[Plate]
    tables: Sequence[TextTable]


class Study(ABC, Generic[S]):
    """Base of all studies. `needs_world`: works only in the shapes world. `trains`: its cells are forks of a run, which
    the caller makes."""

    name: ClassVar[str]
    question: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]]
    needs_world: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    unit: ClassVar[str] = "images"
    """Unit of `Cell.work`."""

    def __init__(self, bench: Bench, settings: S) -> None:
        self.bench, self.settings = bench, settings

    @abstractmethod
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they are measured."""

    @abstractmethod
    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        """Measure one cell. Returns its rows without the columns of `cell.at`."""

    @abstractmethod
    def findings(self, frame: Frame) -> Findings:
        """Findings from the rows of all cells. Each row has the `commit` that measured it."""

    def stamp(self, frame: Frame, samples: int = 1) -> str:
        """The line below a figure: n, seeds, the commits that measured the rows, and recipe digests."""
        each = "" if samples == 1 else f" x {samples} samples"
        return f"n = {len(frame.values('prompt'))} prompts{each} | seed {self.bench.seed} | {self.origin(frame)}"

    def origin(self, frame: Frame) -> str:
        return f"commit {', '.join(frame.values('commit'))} | recipe {', '.join(self.bench.digests)}"

    def depends(self, *subjects: str) -> dict[str, Any]:
        """What every cell depends on: prompts, seed, judges, and the subjects that it samples from."""
        prompts = json.dumps([[p.id, p.text, p.metadata] for p in self.bench.prompts], sort_keys=True)
        return {
            "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:12],
            "seed": self.bench.seed,
            "rewards": self.bench.subjects[0].recipe.rewards.model_dump(mode="json"),
            "subjects": [self.bench.subject(label).identity() for label in subjects],
        }

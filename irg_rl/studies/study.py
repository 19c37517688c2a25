"""Base class of studies. A study defines a grid of cells. A cell is a combination of settings to measure. The study
measures each cell and derives its findings from the results of all cells."""

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
    """One cell of the grid of a study: a combination of settings to measure.

    at: names and values of these settings. They identify the cell and become columns in the table of its results.
    work: number of work units (for example images), for the progress bar.
    depends: everything else that affects the results of the cell.
    """

    at: dict[str, Any]
    work: int
    depends: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.at.items())

    def digest(self, study: str) -> str:
        """Return a hash of everything that affects the results of the cell: the first 12 hex digits of a sha256.
        `study` is the name of the study."""
        content = json.dumps([study, self.at, self.depends], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TextTable:
    """A table in the report of a study. All its entries are texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """The findings of a study: one sentence with the main result (`headline`), diagrams with one message each
    (`plates`), and tables of texts."""

    headline: str
    plates: Sequence[Plate]
    tables: Sequence[TextTable]


class Study(ABC, Generic[S]):
    """Base class of all studies. If `needs_world` is True, the study works only in the shapes world, a task with
    coloured shapes in a grid of nine cells. If `trains` is True, the study trains models before it measures them. For
    each model, it makes a fork: a copy of an existing run with some changed settings."""

    name: ClassVar[str]
    question: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]]
    needs_world: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    unit: ClassVar[str] = "images"
    """What is counted by `Cell.work`, as a word for the progress bar."""

    def __init__(self, bench: Bench, settings: S) -> None:
        self.bench, self.settings = bench, settings

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Return all cells (combinations of settings to measure), in the order in which they are measured."""

    @abstractmethod
    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        """Measure one cell (combination of settings). Return the rows of its results. The caller adds the settings of
        the cell (`cell.at`) to these rows as columns. For the progress bar, `measure` calls `tick` with the number of
        work units (for example images) that it has just finished."""

    @abstractmethod
    def findings(self, frame: Frame) -> Findings:
        """Return the findings of the study. `frame` is the table with the results of all cells (combinations of
        settings). Its column `commit` names the commit of the code that measured each row."""

    def stamp(self, frame: Frame, samples: int = 1) -> str:
        """Return the line of text that is printed below a diagram of the study. The line names:
        * the number of prompts, and `samples` (the number of samples per prompt) if it is not 1
        * the seed
        * the commits of the code that measured the rows of `frame`
        * the digests (hashes) of the recipes"""
        each = "" if samples == 1 else f" x {samples} samples"
        return f"n = {len(frame.values('prompt'))} prompts{each} | seed {self.bench.seed} | {self.origin(frame)}"

    def origin(self, frame: Frame) -> str:
        return f"commit {', '.join(frame.values('commit'))} | recipe {', '.join(self.bench.digests)}"

    def depends(self, *subjects: str) -> dict[str, Any]:
        """Return a dict of the values that affect the results of a cell in every study. The argument `subjects` has the
        labels of the checkpoints from which the images of the cell are sampled. All values are JSON data:
        * `prompts`: a hash of the prompts
        * `seed`: the seed of the random numbers
        * `rewards`: the settings of the rewards that judge the images
        * `subjects`: what identifies each of these checkpoints"""
        prompts = json.dumps([[p.id, p.text, p.metadata] for p in self.bench.prompts], sort_keys=True)
        return {
            "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:12],
            "seed": self.bench.seed,
            "rewards": self.bench.subjects[0].recipe.rewards.model_dump(mode="json"),
            "subjects": [self.bench.subject(label).identity() for label in subjects],
        }

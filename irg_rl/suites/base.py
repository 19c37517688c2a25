"""The base class of suites: prompts, paths of images, result files, and how scores become figures."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class Picture:
    """One image file of a tree. `path` is relative to the tree. `samples` are the trajectories that it shows: one, or
    four as the tiles of a 2 x 2 grid."""

    path: str
    prompt: Prompt
    samples: tuple[int, ...]

    @property
    def name(self) -> tuple[str, int]:
        """Name in result files: the id of the prompt and the first sample."""
        return self.prompt.id, self.samples[0]


@dataclass(frozen=True)
class Facts:
    """The protocol of a suite in words. It is printed with every table."""

    judge: str
    template: str
    weights: str
    prompts: str
    published: str


class Suite(ABC):
    """Base class of suites. The metadata of a prompt has what layout and figures need. Random numbers depend only on
    (seed, prompt id, sample), so an image does not depend on its batch or worker (rollouts/noise.py)."""

    name: ClassVar[str]
    title: ClassVar[str]
    facts: ClassVar[Facts]
    samples: ClassVar[int] = 1
    """Number of images per prompt."""
    is_grid: ClassVar[bool] = False
    """Whether the samples of a prompt are tiles of one image file."""
    edits: ClassVar[bool] = False
    """Whether every prompt is an instruction to edit a source image."""
    worst: ClassVar[Mapping[str, float]] = {}
    """Metric -> worst score, which is used for missing scores. 0 for metrics that are not named."""
    looked_for: ClassVar[str]
    """Description of the result files, for messages."""

    @abstractmethod
    def read_prompts(self, path: Path) -> list[Prompt]:
        """Read the official prompts file, or a folder of files. InputError names file, line and problem."""

    @abstractmethod
    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        """Path of an image in a tree, as the official evaluator expects it. `model` is the name of a folder in some
        layouts."""

    def pictures(self, prompts: Sequence[Prompt], model: str) -> list[Picture]:
        """All image files of a tree, in order."""
        if self.is_grid:
            return [Picture(self.place(p, 0, model), p, tuple(range(self.samples))) for p in prompts]
        return [Picture(self.place(p, k, model), p, (k,)) for p in prompts for k in range(self.samples)]

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        """Path -> content of other files that the evaluator needs."""
        return {}

    def text_files(self, pictures: Sequence[Picture], said: Mapping[str, Any], turn: int) -> dict[str, str]:
        """Path -> content of files with the model's texts that the evaluator needs in the tree of a turn. `said`: path
        of a picture -> its record in texts.jsonl."""
        return {}

    def source(self, prompt: Prompt) -> str:
        """Path of the image to edit, relative to the folder of sources."""
        raise NotImplementedError(f"{self.name} edits no images")

    @abstractmethod
    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        """Read the official result files in a tree. Without files the results are empty."""

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        """Metrics that every picture of this prompt should have scores for."""
        return ("score",)

    def expected(self, prompts: Iterable[Prompt]) -> list[Key]:
        """All scores of a complete evaluation."""
        count = 1 if self.is_grid else self.samples
        return [Key(p.id, k, metric) for p in prompts for k in range(count) for metric in self.metrics(p)]

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        """Number of cases (such as questions) that a missing score would have. None: not known, use the mean of the
        others."""
        return 1.0

    def stratum(self, prompt: Prompt) -> str:
        """The part of the suite that a prompt belongs to. Resampling keeps the number of prompts in each part."""
        return ""

    @abstractmethod
    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        """Figures of the suite, by its own aggregation. The headline figure is last."""

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        """Name of this set of prompts, for example whether they are rewritten, if the prompts show it."""
        return f"{len(prompts)} prompts"

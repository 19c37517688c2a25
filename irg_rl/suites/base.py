"""Base class of suites. A suite reads prompts and result files, says where each image is stored, and defines how scores
become figures (reported numbers)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class Picture:
    """One image file of a tree (a folder of images). `path` is relative to the tree. `samples` are the numbers of the
    trajectories that the image shows: one, or four as the tiles of a 2 x 2 grid."""

    path: str
    prompt: Prompt
    samples: tuple[int, ...]

    @property
    def name(self) -> tuple[str, int]:
        """Return the name of the picture in result files: (prompt id, number of its first sample)."""
        return self.prompt.id, self.samples[0]


@dataclass(frozen=True)
class Facts:
    """The evaluation protocol of a suite in words. It is printed with every table of results."""

    judge: str
    template: str
    weights: str
    prompts: str
    published: str


class Suite(ABC):
    """Base class of suites. The metadata of each prompt contains what the paths and the figures need. Random numbers
    depend only on (seed, prompt id, sample), so an image does not depend on its batch or worker (rollouts/noise.py)."""

    name: ClassVar[str]
    title: ClassVar[str]
    facts: ClassVar[Facts]
    samples: ClassVar[int] = 1
    """Number of images per prompt."""
    is_grid: ClassVar[bool] = False
    """True if all samples of a prompt are tiles of one image file."""
    edits: ClassVar[bool] = False
    """True if every prompt is an instruction to edit a source image."""
    worst: ClassVar[Mapping[str, float]] = {}
    """Name of a metric -> its worst score, which replaces missing scores. For metrics that are not listed, it is 0."""
    looked_for: ClassVar[str]
    """Description of the official result files. Messages use it to say what was not found."""

    @abstractmethod
    def read_prompts(self, path: Path) -> list[Prompt]:
        """Read the official prompts file, or a folder of such files. Raises InputError, with file, line and problem, if
        something is wrong."""

    @abstractmethod
    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        """Return the path of an image inside a tree (a folder of images), as the official evaluator expects it. In some
        layouts, `model` is the name of a folder."""

    def pictures(self, prompts: Sequence[Prompt], model: str) -> list[Picture]:
        """Return all image files of a tree (a folder of images), in the order of prompts and samples."""
        if self.is_grid:
            return [Picture(self.place(p, 0, model), p, tuple(range(self.samples))) for p in prompts]
        return [Picture(self.place(p, k, model), p, (k,)) for p in prompts for k in range(self.samples)]

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        """Return the other files that the evaluator needs: path -> content."""
        return {}

    def text_files(self, pictures: Sequence[Picture], said: Mapping[str, Any], turn: int) -> dict[str, str]:
        """Return the files with texts of the model that the evaluator needs in the tree of turn `turn`: path ->
        content. `said` maps the path of a picture to its record in texts.jsonl."""
        return {}

    def source(self, prompt: Prompt) -> str:
        """Return the path of the image to edit, relative to the folder of source images."""
        raise NotImplementedError(f"{self.name} edits no images")

    @abstractmethod
    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        """Read the official result files in a tree (a folder of images). If there are no such files, the results are
        empty."""

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        """Return the names of the metrics that should have a score for every picture of this prompt."""
        return ("score",)

    def expected(self, prompts: Iterable[Prompt]) -> list[Key]:
        """Return the keys of all scores that a complete evaluation has."""
        count = 1 if self.is_grid else self.samples
        return [Key(p.id, k, metric) for p in prompts for k in range(count) for metric in self.metrics(p)]

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        """Return how many cases (for example questions) a missing score of this metric stands for. None means that the
        number is not known; then the mean over the scores that exist is used."""
        return 1.0

    def stratum(self, prompt: Prompt) -> str:
        """Return the part of the suite to which a prompt belongs. When prompts are resampled for intervals, each part
        keeps its number of prompts."""
        return ""

    @abstractmethod
    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        """Return the figures (reported numbers) of the suite, aggregated as in its official code. The headline figures
        come last."""

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        """Return a description of these prompts. It says, for example, whether the prompts are rewritten, if the
        prompts show this."""
        return f"{len(prompts)} prompts"

"""What a suite declares: prompts, the place of every image, result files, and how scores become figures."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class Picture:
    """One image file of a tree. `path` is relative to the tree; `samples` are the trajectories that it shows: one, or
    four as the tiles of a 2 x 2 grid."""

    path: str
    prompt: Prompt
    samples: tuple[int, ...]

    @property
    def name(self) -> tuple[str, int]:
        """What result files call it: the prompt's id and the first sample."""
        return self.prompt.id, self.samples[0]


@dataclass(frozen=True)
class Facts:
    """The protocol in words, printed with every table."""

    judge: str
    template: str
    weights: str
    prompts: str
    published: str


class Suite(ABC):
    """Prompt metadata holds whatever the layout and the figures need. Random numbers follow from (seed, prompt id,
    sample) alone, so an image depends neither on its batch nor on who draws it (rollouts/noise.py)."""

    name: ClassVar[str]
    title: ClassVar[str]
    facts: ClassVar[Facts]
    samples: ClassVar[int] = 1
    """Images per prompt."""
    is_grid: ClassVar[bool] = False
    """The samples of a prompt are the tiles of one file."""
    edits: ClassVar[bool] = False
    """Every prompt is an instruction about a source image."""
    worst: ClassVar[Mapping[str, float]] = {}
    """The worst score by metric, which a missing one counts as; 0 where a metric is not named."""
    looked_for: ClassVar[str]
    """The result files, in words, for messages."""

    @abstractmethod
    def read_prompts(self, path: Path) -> list[Prompt]:
        """The official file (or folder of files). InputError names file, line and what is wrong."""

    @abstractmethod
    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        """Path of an image in a tree, as the official evaluator expects it; `model` where a folder is named by it."""

    def pictures(self, prompts: Sequence[Prompt], model: str) -> list[Picture]:
        """All files of a tree, in order."""
        if self.is_grid:
            return [Picture(self.place(p, 0, model), p, tuple(range(self.samples))) for p in prompts]
        return [Picture(self.place(p, k, model), p, (k,)) for p in prompts for k in range(self.samples)]

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        """Path -> content of what an evaluator wants beside the images."""
        return {}

    def text_files(self, pictures: Sequence[Picture], said: Mapping[str, Any], turn: int) -> dict[str, str]:
        """Path -> content of what an evaluator wants of the model's texts in the tree of a turn. `said`: path of a
        picture -> its record in texts.jsonl."""
        return {}

    def source(self, prompt: Prompt) -> str:
        """Path of the image to edit, relative to the folder of sources."""
        raise NotImplementedError(f"{self.name} edits no images")

    @abstractmethod
    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        """What the official result files in a tree say; no file gives empty results."""

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        """The scores that every picture of this prompt is to have."""
        return ("score",)

    def expected(self, prompts: Iterable[Prompt]) -> list[Key]:
        """Every score that a whole evaluation has."""
        count = 1 if self.is_grid else self.samples
        return [Key(p.id, k, metric) for p in prompts for k in range(count) for metric in self.metrics(p)]

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        """Cases that a missing score stands for (questions that would be asked); None: not known, as many as others."""
        return 1.0

    def stratum(self, prompt: Prompt) -> str:
        """The part of the suite that has a fixed number of prompts; resampling keeps it."""
        return ""

    @abstractmethod
    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        """The suite's own aggregation, headline last."""

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        """Which prompts these are, rewritten or not, as far as they show it themselves."""
        return f"{len(prompts)} prompts"

"""Base class of suites (benchmarks). A suite does three things:
* It reads prompts and result files.
* It says where each image is stored.
* It defines how the reported numbers (figures) are computed from the scores."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class Picture:
    """One image file. A prompt can have several trajectories. They are numbered and called samples. The file shows
    either one sample, or four samples as the tiles of a 2 x 2 grid. `samples` has the numbers of the samples that it
    shows. `path` is relative to the folder of images."""

    path: str
    prompt: Prompt
    samples: tuple[int, ...]

    @property
    def name(self) -> tuple[str, int]:
        """Return the pair that identifies the picture in result files: (prompt id, number of the first sample that it
        shows)."""
        return self.prompt.id, self.samples[0]


@dataclass(frozen=True)
class Facts:
    """The official evaluation protocol of a suite, in words. It is printed with every table of results. `judge`: who
    scores the images. `template`: the questions to the judge. `weights`: how scores are averaged. `prompts`: the file
    and number of prompts. `published`: published results and remarks on them."""

    judge: str
    template: str
    weights: str
    prompts: str
    published: str


class Suite(ABC):
    """Base class of suites (benchmarks). The metadata of each prompt contains everything that is needed to compute
    image paths and reported numbers. The random numbers of an image depend only on (seed, prompt id, sample). So the
    image does not depend on the batch or the worker that draws it (rollouts/noise.py)."""

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
    """Name of a metric -> its worst score, which is used in place of a missing score. For metrics that are not listed,
    the worst score is 0."""
    looked_for: ClassVar[str]
    """Names of the official result files, as a text. It appears in messages that no results were found."""

    @abstractmethod
    def read_prompts(self, path: Path) -> list[Prompt]:
        """Read the official prompts from a file or from a folder of files. Raises InputError if something is wrong; the
        message names the file, the line and the problem."""

    @abstractmethod
    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        """Return the path at which the official evaluator expects an image, relative to the folder that contains all
        images of one turn. `sample` is the number of the image among the images of its prompt. `model` is the name of
        the model that drew the images. Some layouts have a folder with this name."""

    def pictures(self, prompts: Sequence[Prompt], model: str) -> list[Picture]:
        """Return the image files that a complete folder of images (a tree) has, in the order of prompts and samples.
        `model` is the name of the model that drew the images, which some paths contain."""
        if self.is_grid:
            return [Picture(self.place(p, 0, model), p, tuple(range(self.samples))) for p in prompts]
        return [Picture(self.place(p, k, model), p, (k,)) for p in prompts for k in range(self.samples)]

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        """Return a dict, path -> content, of additional files for the official evaluator. (It also gets the images and
        texts of the model.) `pictures` are the image files to evaluate. Most suites need no such files and return an
        empty dict."""
        return {}

    def text_files(self, pictures: Sequence[Picture], said: Mapping[str, Any], turn: int) -> dict[str, str]:
        """Return a dict, path -> content, of the text files that the official evaluator needs for the images of turn
        `turn` (from 0). These files contain texts that the model wrote. `pictures` are the image files. `said` maps the
        path of each image file to a JSON object from texts.jsonl. This object has the texts of the trajectories that
        the file shows."""
        return {}

    def source(self, prompt: Prompt) -> str:
        """Return the path of the image that the prompt asks to edit, relative to the folder of source images. Only
        benchmarks of image editing have such images."""
        raise NotImplementedError(f"{self.name} edits no images")

    @abstractmethod
    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        """Read the official result files in the folder `tree` and return the scores. `prompts` are the prompts of the
        images in this folder. If the folder has no result files, the returned `Results` is empty."""

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        """Return the names of the metrics for which every image of this prompt should have a score."""
        return ("score",)

    def expected(self, prompts: Iterable[Prompt]) -> list[Key]:
        """Return the keys (prompt, number of the image, metric) of all scores that a complete evaluation has."""
        count = 1 if self.is_grid else self.samples
        return [Key(p.id, k, metric) for p in prompts for k in range(count) for metric in self.metrics(p)]

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        """Return how many cases (for example questions about the image) the score of `metric` covers, for one image of
        `prompt`. If the score is missing, it counts as the worst score for this number of cases. Return None if the
        number is not known. The mean number of cases of the existing scores of this metric is then used instead."""
        return 1.0

    def stratum(self, prompt: Prompt) -> str:
        """Return the name of the stratum (for example the category) to which a prompt belongs. When prompts are
        resampled to compute intervals, the number of prompts in each stratum stays the same."""
        return ""

    @abstractmethod
    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        """Return the figures (reported numbers) of the suite, which are defined as in its official code. The headline
        figures (the main results, such as the overall score) come last."""

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        """Return a short description of the prompts for the report: how many there are, and whether they are the
        official prompts or rewritten ones, as far as this can be seen."""
        return f"{len(prompts)} prompts, rewritten or not: not known"

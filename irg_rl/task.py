"""The interface of a task: its prompts, and verdicts on pictures.

A *task* has everything that evaluation and RL need: prompts of three splits, a verdict on a picture, and, if it can
decide this, whether a reflection is true. A *world* is a task that can also make all data for a run from scratch:
pictures, SFT rows, texts, data for small scorers, and a judge. The driver checks what a task can do, never its name.

Your own task is one class in one file (`examples/own_task.py`). A recipe names it by its import path.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8

from irg_rl.config import Recipe, Section
from irg_rl.config.task import task_class, task_settings
from irg_rl.trajectory import Prompt

Pixels = UInt8[np.ndarray, "H W 3"]
SPLITS = ("train", "validation", "test")
"""Splits of every task. SFT and RL train on the first one. The second is for tuning and the third for results."""

ScoreBy = Callable[[str, list[Pixels], list[Prompt]], Sequence[float | None]]
"""Name of a scorer, pictures, their prompts -> one score per picture. None: the scorer failed."""


@dataclass(frozen=True)
class Verdict:
    """Whether a picture is right, and a graded score (higher is better)."""

    correct: bool
    score: float


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the gate, as shares and not in percent. See config.GateRecipe."""

    first_accuracy: float
    damage: float
    margin: float
    """Smallest advantage of repair over each control."""


@dataclass(frozen=True)
class Answer:
    """A judge's reply: its text, and alternatives of its first token with probabilities. Empty: it gives none."""

    text: str
    words: dict[str, float] = field(default_factory=dict)


Mind = Callable[[str, tuple[Pixels, ...], int], Answer]
"""The embedded judge: (question in plain words, one or two pictures, seed) -> answer."""

Settings = TypeVar("Settings", bound=Section)


class Task(ABC, Generic[Settings]):
    """Base class of tasks. A task must have `prompts` and `verdicts`. All else is optional."""

    settings_type: type[Section] = Section
    """Class of `task_options`. An unknown option is an error that names the nearest known one."""
    splits: tuple[str, ...] = SPLITS
    """Splits of the prompts. A task may have more than these three."""
    thresholds: Thresholds | None = None
    """Thresholds of the gate, for those that the recipe does not give. None: the task has no gate."""
    last_error: str = ""
    """Why the last verdict was None."""

    def __init__(
        self,
        settings: Settings,
        seed: int = 0,
        image_size: tuple[int, int] = (0, 0),
        score: ScoreBy | None = None,
    ) -> None:
        """`seed` and `image_size` (height, width) are those of the recipe. `score` asks the recipe's scorers, if
        any."""
        self.settings, self.seed, self.image_size, self.score = settings, seed, image_size, score

    @abstractmethod
    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of a split. Every call returns the same."""

    @abstractmethod
    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        """One verdict per picture, where `prompts` has the prompt of each picture. None: the task cannot decide."""

    @property
    def verdict_scorer(self) -> str | None:
        """Name of the scorer that gives the verdicts. None: the task decides itself, or has no verdicts."""
        return None

    def judges(self, prompt: Prompt) -> bool:
        """Whether the task can give verdicts on pictures of this prompt."""
        return True

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        """Whether the statements of the text about the picture are true. None: the task cannot decide."""
        return None

    def truth(self, text: str, image: Pixels, prompt: Prompt) -> float | None:
        """How true a reflection on an image is, in [0, 1]; None where the task cannot know."""
        right = self.check_reflection(text, image, prompt)
        return None if right is None else float(right)

    def following(self, text: str, before: Pixels, after: Pixels, prompt: Prompt) -> float | None:
        """How well the image `after` does what a reflection on `before` asks for, in [0, 1]; None where the task cannot
        know."""
        return None

    def problems(self, recipe: Recipe) -> list[str]:
        """Settings of the recipe that this task cannot fulfil, one line each."""
        return []

    def missing(self) -> list[str]:
        """Things that the task needs and this machine lacks, such as files, one line each."""
        return []


@dataclass(frozen=True)
class Ranking:
    """Pictures of one prompt and how much a person likes each. Usually, but not always, better pictures are liked
    more."""

    prompt: Prompt
    images: tuple[Pixels, ...]
    liking: tuple[float, ...]
    graded: tuple[float, ...]
    """Scores of the verdicts. Only for reports, never for training."""


class ScorerExamples(Protocol):
    """A reproducible stream of examples for the small scorers that a run trains itself."""

    def words(self) -> list[str]:
        """Every word of the prompts, sorted."""
        ...

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """`n` pictures with different captions. Every second picture is a copy of the one before with one defect, and
        its caption describes the copy correctly. Contrastive training needs such hard negatives."""
        ...

    def rankings(self, n: int) -> list[Ranking]:
        """`n` prompts, each with several better and worse pictures."""
        ...


class World(Task[Settings]):
    """A task that can also make all data for a run from scratch."""

    mind: str = ""
    """Import path (package.module:function) of its embedded judge (`Mind`)."""
    own_modes: tuple[str, ...] = ()
    """Learning modes of the rows that are made from the model's own first images."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Learning mode -> number of SFT rows that are made before SFT."""

    @property
    @abstractmethod
    def own_images(self) -> int:
        """Number of first images that the model draws between the SFT stages, to learn from its own failures. 0:
        none."""

    @property
    @abstractmethod
    def own_image_points(self) -> int:
        """Time points of the sampler that draws them."""

    @abstractmethod
    def prompts(self, split: str, count: int | None = None) -> list[Prompt]:
        """`count` prompts of a split. None: the number in the settings. InputError if there are too few."""

    @abstractmethod
    def write_rows(self, folder: Path, mode: str, prompts: Sequence[Prompt]) -> None:
        """Write the rows of one learning mode as parquet into `folder`/`mode`, in the IRG schema."""

    @abstractmethod
    def think_text(self, prompt: Prompt) -> str:
        """The teacher's think text before the first image."""

    @abstractmethod
    def write_own_rows(self, folder: Path, images: Sequence[Pixels], prompts: Sequence[Prompt]) -> None:
        """Write rows about pictures that the model has drawn, one picture per prompt, in the format of `write_rows`."""

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """Texts for training a tokenizer."""

    @abstractmethod
    def pictures(self, count: int, rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Pictures for training an autoencoder."""

    @abstractmethod
    def pictures_of(self, prompts: Sequence[Prompt], rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """One right picture for each prompt."""

    @abstractmethod
    def reads_alike(self, images: UInt8[np.ndarray, "N H W 3"], rebuilt: UInt8[np.ndarray, "N H W 3"]) -> float:
        """Share of reconstructions that the checker reads like their originals."""

    @abstractmethod
    def scorer_examples(self, seed: int) -> ScorerExamples:
        """Examples for the small CLIP and HPS models. Two streams with the same seed are equal."""


def task_of(recipe: Recipe, score: ScoreBy | None = None) -> Task:
    """The task of a recipe. `score` asks the recipe's scorers."""
    return task_class(recipe.task)(recipe.task_options, recipe.seed, recipe.sampling.image_size, score)


def make_task(name: str, options: Mapping[str, object], seed: int, image_size: tuple[int, int]) -> Task:
    """A task from plain values, which can be sent to another process."""
    return task_class(name)(task_settings(name, options), seed, image_size)

"""The interface of a task: its prompts, and its verdicts on pictures.

A *task* has everything that evaluation and RL need: prompts in three splits, and a verdict on a picture. If it can, it
also decides whether a reflection is true. A *world* is a task that can also make all data for a run from scratch:
pictures, SFT rows, texts, data for small scorers, and a judge. The driver asks a task what it can do. It never uses the
name of the task.

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
"""Names of the splits that every task has. SFT and RL train on "train". "validation" is for tuning, and "test" for
final results."""

ScoreBy = Callable[[str, list[Pixels], list[Prompt]], Sequence[float | None]]
"""A function (name of a scorer, pictures, prompt of each picture) -> one score per picture. A score is None if the
scorer failed."""


@dataclass(frozen=True)
class Verdict:
    """Whether a picture is right, and a graded score. A higher score is better."""

    correct: bool
    score: float


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the gate. They are shares between 0 and 1, not percentages. See config.GateRecipe."""

    first_accuracy: float
    damage: float
    margin: float
    """By how much the repair rate must at least exceed that of each control."""


@dataclass(frozen=True)
class Answer:
    """A judge's reply: its text, and in `words` the possible first tokens with their probabilities. `words` is empty if
    the judge gives no probabilities."""

    text: str
    words: dict[str, float] = field(default_factory=dict)


Mind = Callable[[str, tuple[Pixels, ...], int], Answer]
"""The embedded judge: a function (question in plain words, one or two pictures, seed) -> answer."""

Settings = TypeVar("Settings", bound=Section)


class Task(ABC, Generic[Settings]):
    """Base class of tasks. A task must define `prompts` and `verdicts`. Everything else is optional."""

    settings_type: type[Section] = Section
    """Class of the settings `task_options` in the recipe. For an unknown option, the error message names the most
    similar known one."""
    splits: tuple[str, ...] = SPLITS
    """Names of the splits of the prompts. A task may have more splits than these three."""
    thresholds: Thresholds | None = None
    """Thresholds of the gate. They are used for those thresholds that the recipe does not set. None means that the task
    has no thresholds of its own."""
    last_error: str = ""
    """The reason why the last verdict was None."""

    def __init__(
        self,
        settings: Settings,
        seed: int = 0,
        image_size: tuple[int, int] = (0, 0),
        score: ScoreBy | None = None,
    ) -> None:
        """Store the arguments. `seed` and `image_size` (height, width) come from the recipe. `score` is a function that
        asks the recipe's scorers. It is None if there are no scorers."""
        self.settings, self.seed, self.image_size, self.score = settings, seed, image_size, score

    @abstractmethod
    def prompts(self, split: str) -> list[Prompt]:
        """Return the prompts of a split. Every call returns the same prompts."""

    @abstractmethod
    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        """Return one verdict per picture. `prompts` has the prompt of each picture. A verdict is None if the task
        cannot decide."""

    @property
    def verdict_scorer(self) -> str | None:
        """Return the name of the scorer that gives the verdicts. None means that the task decides without a scorer, or
        that it has no verdicts."""
        return None

    def judges(self, prompt: Prompt) -> bool:
        """Return whether the task can give verdicts on pictures of this prompt."""
        return True

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        """Return whether the statements about the picture in the text are true. Return None if the task cannot
        decide."""
        return None

    def truth(self, text: str, image: Pixels, prompt: Prompt) -> float | None:
        """Return how true a reflection on an image is, in [0, 1]. Return None if the task cannot know."""
        right = self.check_reflection(text, image, prompt)
        return None if right is None else float(right)

    def following(self, text: str, before: Pixels, after: Pixels, prompt: Prompt) -> float | None:
        """Return how well the image `after` does what the reflection `text` on the image `before` asks for, in [0, 1].
        Return None if the task cannot know."""
        return None

    def problems(self, recipe: Recipe) -> list[str]:
        """Return one line for each setting of the recipe that this task cannot fulfil."""
        return []

    def missing(self) -> list[str]:
        """Return one line for each thing, such as a file, that the task needs and this machine does not have."""
        return []


@dataclass(frozen=True)
class Ranking:
    """Pictures of one prompt, and how much a person likes each of them. Better pictures are usually liked more, but not
    always."""

    prompt: Prompt
    images: tuple[Pixels, ...]
    liking: tuple[float, ...]
    graded: tuple[float, ...]
    """The scores of the pictures' verdicts. They are used only for reports, never for training."""


class ScorerExamples(Protocol):
    """A reproducible stream of examples for the small scorers that a run trains itself."""

    def words(self) -> list[str]:
        """Return all words of the prompts, sorted."""
        ...

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """Return `n` pictures and their captions, which are all different.

        Every second picture is a copy of the picture before it with one defect. Its caption describes the copy
        correctly. Contrastive training needs such hard negatives.
        """
        ...

    def rankings(self, n: int) -> list[Ranking]:
        """Return `n` prompts, each with several better and worse pictures."""
        ...


class World(Task[Settings]):
    """A task that can also make all data for a run from scratch."""

    mind: str = ""
    """Import path (package.module:function) of the embedded judge (see `Mind`)."""
    own_modes: tuple[str, ...] = ()
    """Names of the learning modes for which rows are made from first images that the model itself has drawn."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Return learning mode -> number of SFT rows that are made before SFT."""

    @property
    @abstractmethod
    def own_images(self) -> int:
        """Return how many first images the model draws between the SFT stages, to learn from its own failures. 0 means
        that it draws none."""

    @property
    @abstractmethod
    def own_image_points(self) -> int:
        """Return the number of time points with which the sampler draws these images."""

    @abstractmethod
    def prompts(self, split: str, count: int | None = None) -> list[Prompt]:
        """Return `count` prompts of a split. If `count` is None, return as many as the settings say. Raises InputError
        if there are too few."""

    @abstractmethod
    def write_rows(self, folder: Path, mode: str, prompts: Sequence[Prompt]) -> None:
        """Write the rows of one learning mode as parquet into `folder`/`mode`, in the IRG schema (the columns of SFT
        data for Interleaving Reasoning Generation)."""

    @abstractmethod
    def think_text(self, prompt: Prompt) -> str:
        """Return the think text that the teacher writes before the first image."""

    @abstractmethod
    def write_own_rows(self, folder: Path, images: Sequence[Pixels], prompts: Sequence[Prompt]) -> None:
        """Write rows about pictures that the model has drawn, one picture per prompt, in the same format as
        `write_rows`."""

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """Return texts for training a tokenizer."""

    @abstractmethod
    def pictures(self, count: int, rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Return `count` pictures for training an autoencoder."""

    @abstractmethod
    def pictures_of(self, prompts: Sequence[Prompt], rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Return one right picture for each prompt."""

    @abstractmethod
    def reads_alike(self, images: UInt8[np.ndarray, "N H W 3"], rebuilt: UInt8[np.ndarray, "N H W 3"]) -> float:
        """Return the share of reconstructed pictures in which the checker reads the same content as in the original
        pictures."""

    @abstractmethod
    def scorer_examples(self, seed: int) -> ScorerExamples:
        """Return examples for the small CLIP and HPS models. Two streams with the same seed are equal."""


def task_of(recipe: Recipe, score: ScoreBy | None = None) -> Task:
    """Return the task of a recipe. `score` is a function that asks the recipe's scorers."""
    return task_class(recipe.task)(recipe.task_options, recipe.seed, recipe.sampling.image_size, score)


def make_task(name: str, options: Mapping[str, object], seed: int, image_size: tuple[int, int]) -> Task:
    """Return a task that is made from plain values. These values can be sent to another process."""
    return task_class(name)(task_settings(name, options), seed, image_size)

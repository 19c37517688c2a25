"""The interface of a task. A task gives prompts, and verdicts that say whether a picture fits its prompt.

A *task* has everything that evaluation and RL need: prompts in three splits (train, validation, test), and a verdict on
each picture. Some tasks can also decide whether a reflection is true. A *world* is a task that can also make all data
for a run from scratch. It has pictures, SFT rows, texts, data for small scorers, and a judge. The driver, which
executes a run, asks a task what it can do. The driver never decides by the name of the task.

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
from irg_rl.trajectory import Prompt, Statement

Pixels = UInt8[np.ndarray, "H W 3"]
SPLITS = ("train", "validation", "test")
"""Names of the splits (sets of prompts) that every task has. "train" is for SFT and RL, "validation" is for tuning, and
"test" is for final results."""

ScoreBy = Callable[[str, list[Pixels], list[Prompt]], Sequence[float | None]]
"""Type of a function that asks a scorer. Arguments: name of the scorer, pictures, and the prompt of each picture.
Result: one score per picture. A score is None if the scorer failed."""


@dataclass(frozen=True)
class Verdict:
    """A task's decision about a picture: `correct` says whether the picture fits its prompt. `score` says how well it
    fits; a higher score is better."""

    correct: bool
    score: float


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the gate, a test that refinement really improves images. They are shares between 0 and 1, not
    percentages. `first_accuracy` is a threshold for the share of right first images. `damage` is a threshold for the
    share of these right images that become wrong by refinement. config.GateRecipe explains them."""

    first_accuracy: float
    damage: float
    margin: float
    """Smallest difference by which the repair rate (the share of wrong images that become right) must exceed that of
    each control."""


@dataclass(frozen=True)
class Answer:
    """A judge's reply. `text` is its text. `words` maps each possible first token of the reply to its probability.
    `words` is empty if the judge gives no probabilities."""

    text: str
    words: dict[str, float] = field(default_factory=dict)


Mind = Callable[[str, tuple[Pixels, ...], int], Answer]
"""Type of the judge that a task itself can have (the embedded judge). It is a function (question in plain words, one or
two pictures, seed) -> answer."""

Settings = TypeVar("Settings", bound=Section)


class Task(ABC, Generic[Settings]):
    """Base class of tasks. A task must define `prompts` and `verdicts`. Everything else is optional."""

    settings_type: type[Section] = Section
    """Class that defines which settings `task_options` of the recipe may have. For an unknown setting, the error
    message names the most similar known one."""
    splits: tuple[str, ...] = SPLITS
    """Names of the task's sets of prompts. A task may have more than train, validation and test."""
    thresholds: Thresholds | None = None
    """Thresholds of the gate, which checks whether refinement really helps. If the recipe sets a threshold, its value
    is used instead of the value here. None means that the task has no thresholds of its own."""
    last_error: str = ""
    """The reason why the last picture that has the verdict None could not be judged, as text."""

    def __init__(
        self,
        settings: Settings,
        seed: int = 0,
        image_size: tuple[int, int] = (0, 0),
        score: ScoreBy | None = None,
    ) -> None:
        """Store the arguments. `seed` and `image_size` (height, width) come from the recipe. `score` is a function that
        asks a scorer of the recipe (see `ScoreBy`), or None if there are no scorers."""
        self.settings, self.seed, self.image_size, self.score = settings, seed, image_size, score

    @abstractmethod
    def prompts(self, split: str) -> list[Prompt]:
        """Return the prompts of a split. Every call returns the same prompts."""

    @abstractmethod
    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        """Return one verdict per picture. `prompts` has one prompt per picture. A verdict is None if the task cannot
        decide."""

    @property
    def verdict_scorer(self) -> str | None:
        """Return the name of the scorer that decides whether a picture is right. Return None if the task decides
        without a scorer, or if it cannot decide at all."""
        return None

    def judges(self, prompt: Prompt) -> bool:
        """Return whether the task can decide if pictures of this prompt are right."""
        return True

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        """Return True if all statements of the reflection `text` about the picture are true, and False if one of them
        is not. Return None if the task cannot decide."""
        return None

    def truth(self, text: str, image: Pixels, prompt: Prompt) -> float | None:
        """Return how much of the reflection `text` on the picture is true, as a number from 0 to 1. Return None if the
        task cannot know."""
        right = self.check_reflection(text, image, prompt)
        return None if right is None else float(right)

    def statements(self, text: str, image: Pixels, prompt: Prompt) -> list[Statement] | None:
        """Return the single statements of the reflection `text` on the picture, each with a score from 0 to 1 that says
        how true it is. Return None if the task cannot know."""
        return None

    def following(self, text: str, before: Pixels, after: Pixels, prompt: Prompt) -> float | None:
        """Return how well the image `after` follows the reflection `text`, as a number from 0 to 1. The reflection asks
        for changes of the image `before`, and `after` is the image drawn next. It should show these changes. Return
        None if the task cannot know."""
        return None

    def problems(self, recipe: Recipe) -> list[str]:
        """Return one message for each setting of the recipe that this task does not support."""
        return []

    def missing(self) -> list[str]:
        """Return one message for each file, package or other resource that the task needs and this machine does not
        have."""
        return []


@dataclass(frozen=True)
class Ranking:
    """Several pictures of one prompt. `liking` has one number per picture: how much a simulated person likes it. This
    person usually likes better pictures more, but not always."""

    prompt: Prompt
    images: tuple[Pixels, ...]
    liking: tuple[float, ...]
    graded: tuple[float, ...]
    """The true quality of each picture: the score of the task's verdict. It is used only for reports, never for
    training."""


class ScorerExamples(Protocol):
    """A stream of training examples for small scorers (CLIP and HPS models) that a run trains itself. Two streams with
    the same seed give the same examples."""

    def words(self) -> list[str]:
        """Return a sorted list of all words that occur in the task's prompts. Each word is listed once."""
        ...

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """Return (`n` pictures, their `n` captions). All captions are different.

        The pictures come in pairs. The second picture of a pair is a copy of the first picture with one error. The
        caption of the second picture describes this changed copy. So it differs from the caption of the first picture.
        Contrastive training needs such hard negatives.
        """
        ...

    def rankings(self, n: int) -> list[Ranking]:
        """Return `n` rankings. Each has one prompt and several better and worse pictures of it."""
        ...


class World(Task[Settings]):
    """A task that can also make all data for a run from scratch."""

    mind: str = ""
    """Import path (package.module:function) of the task's own judge, which is a function of type `Mind`."""
    own_modes: tuple[str, ...] = ()
    """Names of the learning modes (types of SFT rows) that are also made from first images that the model itself has
    drawn."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Return how many SFT rows of each type are made before SFT. The result maps the name of a learning mode (type
        of row) to the number of these rows."""

    @property
    @abstractmethod
    def own_images(self) -> int:
        """Return how many first images the model draws after SFT stage 1. (SFT consists of stages, one after the
        other.) The task makes SFT rows from these images. In stage 2, the rows train the model to correct its own
        mistakes. 0 means that the model draws no such images."""

    @property
    @abstractmethod
    def own_image_points(self) -> int:
        """Return the number of time points for the first images that the model draws itself (see `own_images`). The
        number of denoising steps of such an image is one less."""

    @abstractmethod
    def prompts(self, split: str, count: int | None = None) -> list[Prompt]:
        """Return `count` prompts of a split. If `count` is None, return as many as the settings of the task say. Raises
        InputError if the split has fewer than `count` prompts."""

    @abstractmethod
    def write_rows(self, folder: Path, mode: str, prompts: Sequence[Prompt]) -> None:
        """Make the SFT rows of one learning mode (type of rows) from these prompts. Write them as parquet into
        `folder`/`mode`, with the columns of the SFT data of Interleaving Reasoning Generation (IRG)."""

    @abstractmethod
    def think_text(self, prompt: Prompt) -> str:
        """Return the think text (the plan before the first image) that the SFT data would have for this prompt."""

    @abstractmethod
    def write_own_rows(self, folder: Path, images: Sequence[Pixels], prompts: Sequence[Prompt]) -> None:
        """Make SFT rows from first images that the model has drawn. `prompts` has one prompt for each image. Write the
        rows into `folder`, in the same format as `write_rows`."""

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """Return texts for training a tokenizer."""

    @abstractmethod
    def pictures(self, count: int, rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Return `count` pictures for training an autoencoder."""

    @abstractmethod
    def pictures_of(self, prompts: Sequence[Prompt], rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Return one picture for each prompt. Each picture fits its prompt."""

    @abstractmethod
    def reads_alike(self, images: UInt8[np.ndarray, "N H W 3"], rebuilt: UInt8[np.ndarray, "N H W 3"]) -> float:
        """Compare pictures with their reconstructions by an autoencoder. The task's checker finds the objects in every
        picture and in every reconstruction. Return a share from 0 to 1: how many pictures show the same objects as
        their reconstruction."""

    @abstractmethod
    def scorer_examples(self, seed: int) -> ScorerExamples:
        """Return a stream of training examples for the small CLIP and HPS models. The same seed always gives the same
        examples."""


def task_of(recipe: Recipe, score: ScoreBy | None = None) -> Task:
    """Create the task that a recipe names, and return it. `score` is a function with which the task can ask the scorers
    of the recipe (see `ScoreBy`). None means that the task cannot ask a scorer."""
    return task_class(recipe.task)(recipe.task_options, recipe.seed, recipe.sampling.image_size, score)


def make_task(name: str, options: Mapping[str, object], seed: int, image_size: tuple[int, int]) -> Task:
    """Create the task `name` and return it. `options` are its settings. `seed` and `image_size` (height, width) come
    from the recipe. All arguments are plain values, so they can be sent to another process that creates the same task
    there."""
    return task_class(name)(task_settings(name, options), seed, image_size)

"""What a run asks about its task: which prompts there are, and whether a picture is right.

A *task* is all that evaluation and RL need to know of the world outside: prompts of three splits, a verdict on a
picture and, if it can say so, whether a reflection is true. A *world* can also make everything that a run from nothing
needs: pictures, SFT rows, texts, data for small scorers, a judge. The driver asks what a task can do, never what it is
called.

A task of one's own is one class in one file (`examples/own_task.py`), named in a recipe by its import path.
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
"""Splits of every task: RL and SFT take prompts of the first, the second is for tuning, the third for results."""

ScoreBy = Callable[[str, list[Pixels], list[Prompt]], Sequence[float | None]]
"""Name of a scorer, pictures and their prompts -> a score each; None where the scorer failed."""


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, and a graded score: higher is better."""

    correct: bool
    score: float


@dataclass(frozen=True)
class Thresholds:
    """What refinement after SFT has to reach before RL starts. Shares, not percent."""

    first_accuracy: float
    damage: float
    margin: float
    """Of repair over either control."""


@dataclass(frozen=True)
class Answer:
    """A judge's reply: its text, and the probabilities of its first token's alternatives (empty: none are told)."""

    text: str
    words: dict[str, float] = field(default_factory=dict)


Mind = Callable[[str, tuple[Pixels, ...], int], Answer]
"""What an embedded judge answers to a question in plain words about one or two pictures; last comes a seed."""

Settings = TypeVar("Settings", bound=Section)


class Task(ABC, Generic[Settings]):
    """Base class of tasks. `prompts` and `verdicts` are all that a task must have."""

    settings_type: type[Section] = Section
    """The class of `task_options`; an unknown option is an error that names the nearest known one."""
    splits: tuple[str, ...] = SPLITS
    """Splits of the prompts; a task may have more than the three."""
    thresholds: Thresholds | None = None
    """The gate's thresholds where the recipe names none; None: RL starts without a gate."""
    last_error: str = ""
    """Why the last verdict was None."""

    def __init__(
        self,
        settings: Settings,
        seed: int = 0,
        image_size: tuple[int, int] = (0, 0),
        score: ScoreBy | None = None,
    ) -> None:
        """`seed` and `image_size` (height, width) are the recipe's. `score`: the recipe's scorers, if there are any."""
        self.settings, self.seed, self.image_size, self.score = settings, seed, image_size, score

    @abstractmethod
    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of a split, the same ones at every call."""

    @abstractmethod
    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        """A verdict on every picture, drawn for the prompt of the same place; None where the task cannot know."""

    @property
    def verdict_scorer(self) -> str | None:
        """Name of the scorer that verdicts come from; None: the task judges by itself, or not at all."""
        return None

    def judges(self, prompt: Prompt) -> bool:
        """Whether the task can give verdicts on pictures of this prompt."""
        return True

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        """Whether what the text says of the picture is true; None where the task cannot know."""
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
        """What the recipe asks of this task that it does not have, a line each that names the setting."""
        return []

    def missing(self) -> list[str]:
        """What the task needs and this machine lacks, such as files; a line each."""
        return []


@dataclass(frozen=True)
class Ranking:
    """Pictures of one prompt and how a person liked them: mostly, not always, the better ones more."""

    prompt: Prompt
    images: tuple[Pixels, ...]
    liking: tuple[float, ...]
    graded: tuple[float, ...]
    """Scores of the verdicts: for reports, never for training."""


class ScorerExamples(Protocol):
    """A reproducible stream of examples for the small scorers that a run trains for itself."""

    def words(self) -> list[str]:
        """Every word of the prompts, sorted."""
        ...

    def captioned(self, n: int) -> tuple[list[Pixels], list[str]]:
        """`n` pictures with different captions. Every second shows the one before it with one defect, and its caption
        is true of the defect: the hard negative that a contrastive batch needs."""
        ...

    def rankings(self, n: int) -> list[Ranking]:
        """`n` prompts with some pictures each, better and worse."""
        ...


class World(Task[Settings]):
    """A task that can make all that a run from nothing needs."""

    mind: str = ""
    """Import path, package.module:function, of what its embedded judge thinks (`Mind`)."""
    own_modes: tuple[str, ...] = ()
    """Learning modes of the rows about the model's own first images."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Learning mode -> how many SFT rows are made before SFT."""

    @property
    @abstractmethod
    def own_images(self) -> int:
        """First images that the model draws between the stages of SFT, to learn from its own failures; 0: none."""

    @property
    @abstractmethod
    def own_image_points(self) -> int:
        """Time points of the sampler that draws them."""

    @abstractmethod
    def prompts(self, split: str, count: int | None = None) -> list[Prompt]:
        """`count` prompts of a split; None: as many as the settings say. InputError where there are not so many."""

    @abstractmethod
    def write_rows(self, folder: Path, mode: str, prompts: Sequence[Prompt]) -> None:
        """Write the rows of one learning mode as parquet into `folder`/`mode`, in the IRG schema."""

    @abstractmethod
    def think_text(self, prompt: Prompt) -> str:
        """What the teacher thinks before the first image."""

    @abstractmethod
    def write_own_rows(self, folder: Path, images: Sequence[Pixels], prompts: Sequence[Prompt]) -> None:
        """Rows about pictures that the model has drawn, one picture a prompt, written as `write_rows` does."""

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """What a tokenizer is trained on."""

    @abstractmethod
    def pictures(self, count: int, rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """Pictures that an autoencoder is trained on."""

    @abstractmethod
    def pictures_of(self, prompts: Sequence[Prompt], rng: random.Random) -> UInt8[np.ndarray, "N H W 3"]:
        """A right picture of each prompt."""

    @abstractmethod
    def reads_alike(self, images: UInt8[np.ndarray, "N H W 3"], rebuilt: UInt8[np.ndarray, "N H W 3"]) -> float:
        """Share of reconstructions that the checker reads as it reads the originals."""

    @abstractmethod
    def scorer_examples(self, seed: int) -> ScorerExamples:
        """Examples for the small CLIP and HPS; two streams of the same seed give the same."""


def task_of(recipe: Recipe, score: ScoreBy | None = None) -> Task:
    """The task of a recipe; `score` where its scorers are at hand."""
    return task_class(recipe.task)(recipe.task_options, recipe.seed, recipe.sampling.image_size, score)


def make_task(name: str, options: Mapping[str, object], seed: int, image_size: tuple[int, int]) -> Task:
    """A task from plain values, as they travel to another process."""
    return task_class(name)(task_settings(name, options), seed, image_size)

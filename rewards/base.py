"""What a scorer is, and how it may fail.

A scorer looks at finished images and says how good each one is for its prompt. Its contract:

* `score` returns one entry per image: a finite number, or None if that image could not be scored. None never becomes a
  number (verl-omni#366: a timeout that became reward 0 trained a model away from good images). `last_error` says why
  the last None happened, for the message of a run that has to stop.
* `ScorerUnavailable` means that no call can succeed (missing file, refused key). The run stops with its message.
* Any other exception is a defect of the scorer. It is not caught.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from irg_rl.errors import UserError
from irg_rl.trajectory import Prompt

Image = np.ndarray  # uint8, (height, width, 3), RGB
Score = float | None  # None: failed


class ScorerUnavailable(UserError, RuntimeError):
    """A scorer cannot work at all. The message says what happened, where, and what to do."""


class TooManyFailures(UserError, RuntimeError):
    """A scorer failed on more than the allowed share of its recent images."""


class Scorer(Protocol):
    name: str
    last_error: str  # why the most recent None was returned; "" if there was none

    def check(self) -> None:
        """Raise `ScorerUnavailable` unless the scorer can work now. Called once, before a run starts."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        """One score per image; `images[i]` was drawn for `prompts[i]`."""
        ...


@runtime_checkable
class ReflectionScorer(Protocol):
    """A scorer of reflections (`of: reflection`)."""

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """One score per reflection: how true `texts[i]` is of `images[i]`, which was drawn for `prompts[i]`."""
        ...


@runtime_checkable
class EditScorer(Protocol):
    """A scorer of edits (`of: edit`)."""

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """One score per refined image: how well `after[i]` does what the reflection `texts[i]` on `before[i]` asks for
        and keeps the rest."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A scorer with numbers of its own for the metrics."""

    def counts(self) -> dict[str, float]:
        """Name -> number since the scorer was made."""
        ...


@dataclass(frozen=True)
class Preference:
    """Which of two images fits a prompt better, asked in both orders.

    `first`: probability in [0, 1] that the first image is better, as the mean over both orders. The mean cancels a
    constant preference for one position. `in_order` and `swapped` are the two answers, both about the first image.
    """

    in_order: float
    swapped: float

    @property
    def first(self) -> float:
        return (self.in_order + self.swapped) / 2

    @property
    def consistent(self) -> bool:
        """Whether both orders prefer the same image."""
        return (self.in_order > 0.5) == (self.swapped > 0.5)


def require_pairs(images: Sequence[Image], prompts: Sequence[Prompt]) -> None:
    """ValueError unless there is one prompt per image and all images are RGB bytes."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts: pass exactly one prompt per image")
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {i} has dtype {image.dtype} and shape {image.shape}: scorers take uint8 arrays (H, W, 3)"
            )

"""What a scorer is, and how it may fail.

A scorer looks at finished images and says how good each one is for its prompt. Every scorer follows these rules:

* `score` returns one entry per image: a finite number, or None if the image could not be scored. None is never replaced
  by a number. (In verl-omni#366 a timeout became reward 0, and this trained a model away from good images.)
  `last_error` says why the last None was returned. If the run has to stop, its message quotes `last_error`.
* A scorer raises `ScorerUnavailable` if no call can succeed (missing file, refused key). The run then stops with the
  message of this error.
* Any other exception is a bug in the scorer. It is not caught.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from irg_rl.errors import UserError
from irg_rl.trajectory import Prompt, Statement

Image = np.ndarray  # uint8, (height, width, 3), RGB
Score = float | None  # None: failed


class ScorerUnavailable(UserError, RuntimeError):
    """Raised if a scorer cannot work at all. The message says what happened, where, and what to do."""


class TooManyFailures(UserError, RuntimeError):
    """Raised if a scorer failed on more than the allowed share of its recent images."""


class Scorer(Protocol):
    """What every scorer has. In addition, it has the method of at least one of the five forms below. The setting `of`
    in a recipe says which form a run uses."""

    name: str
    last_error: str  # why the most recent None was returned; "" if there was none

    def check(self) -> None:
        """Raise `ScorerUnavailable` if the scorer cannot work now. This method is called once, before a run starts."""


@runtime_checkable
class ImageScorer(Protocol):
    """A scorer of images (`of: image` in a recipe, the usual form)."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        """Return one score per image. `images[i]` was drawn for `prompts[i]`."""
        ...


@runtime_checkable
class ReflectionScorer(Protocol):
    """A scorer of reflections, which are the model's texts about its own images (`of: reflection` in a recipe)."""

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        """Return one score per reflection. It says how true the text `texts[i]` is about `images[i]`, which was drawn
        for `prompts[i]`."""
        ...


@runtime_checkable
class StatementScorer(Protocol):
    """A scorer of the single statements of reflections (`of: statement` in a recipe)."""

    def score_statements(
        self, images: list[Image], prompts: list[Prompt], texts: list[str]
    ) -> list[list[Statement] | None]:
        """Return the statements of each reflection, with a score in [0, 1] for each of them. The text `texts[i]` is
        about `images[i]`, which was drawn for `prompts[i]`. Statements do not overlap, and they need not cover the
        whole text. An entry is None if the scorer failed. The list of a text without statements is empty."""
        ...


@runtime_checkable
class TextScorer(Protocol):
    """A scorer of reflections that reads only the text."""

    def score_texts(self, texts: list[str]) -> list[Score]:
        """Return one score per text."""
        ...


@runtime_checkable
class EditScorer(Protocol):
    """A scorer of edits (`of: edit` in a recipe). An edit is the change from one image to the next, refined image."""

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        """Return one score per refined image. The reflection `texts[i]` asks for changes of `before[i]`. The score says
        how well `after[i]` makes these changes and leaves everything else as it was."""
        ...


@runtime_checkable
class GroupScorer(Protocol):
    """A scorer that compares all images of a group (`of: group` in a recipe)."""

    def score_group(self, images: list[Image], prompt: Prompt) -> list[Score]:
        """Return one score per image. All images were drawn for `prompt`. The score of an image may depend on the other
        images. It says for example how often the image is better than another one."""
        ...


@runtime_checkable
class Preferring(Protocol):
    """A scorer that can compare two images. With `of: group`, the score of an image is then the mean probability that
    it is better than another image of its group."""

    def prefer(self, prompts: list[Prompt], first: list[Image], second: list[Image]) -> "list[Preference | None]":
        """Return one Preference per prompt: how probable it is that `first[i]` is better than `second[i]`. It is None
        if the comparison failed."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A scorer that also counts events, for example how often it had to shorten a text that was too long. The counts
    are logged as metrics."""

    def counts(self) -> dict[str, float]:
        """Return a dict: name of an event -> how often it has happened since the scorer was created. An example of an
        event is a text that the scorer had to shorten."""
        ...


def mean_score(statements: Sequence[Statement]) -> float:
    """Return the mean score of the statements of a text, or 0 if it makes none."""
    return sum(one.score for one in statements) / max(len(statements), 1)


@dataclass(frozen=True)
class Preference:
    """A judge's answer to the question which of two images fits a prompt better. The judge is asked twice, once in each
    order of the images.

    `in_order` is the probability that the first image is better, when it is shown first. `swapped` is the probability
    that this same image is better, when it is shown second.
    """

    in_order: float
    swapped: float

    @property
    def mean(self) -> float:
        """The probability that the first image is better, as the mean over the two orders. A preference for one
        position cancels out in it."""
        return (self.in_order + self.swapped) / 2

    @property
    def first(self) -> float:
        """1.0 if the judge prefers the first image in both orders, and 0.0 if it prefers the second one in both. If the
        two orders disagree, the pair is a tie: 0.5. So a constant preference for one position decides nothing."""
        sides = {(probability > 0.5) - (probability < 0.5) for probability in (self.in_order, self.swapped)}
        return 1.0 if sides == {1} else 0.0 if sides == {-1} else 0.5


def require_pairs(images: Sequence[Image], prompts: Sequence[Prompt]) -> None:
    """Check that there is exactly one prompt per image, and that all images are uint8 arrays (H, W, 3). Raises
    ValueError otherwise."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts: pass exactly one prompt per image")
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {i} has dtype {image.dtype} and shape {image.shape}: scorers take uint8 arrays (H, W, 3)"
            )

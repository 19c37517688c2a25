"""The data that all packages exchange: prompts, segments, trajectories and groups.

A trajectory is one sampled answer to a prompt: text, image, text, image, ... Each text and each image is a *segment*. A
segment has a turn, a modality (text or image) and a parent (the segment that it continues). Turn 0 is (think text,
first image). Turn k >= 1 is (reflection, refined image). A reflection that says "nothing to change" ends the trajectory
without an image.

A group has all trajectories that were sampled from one prompt. They are called siblings. Some siblings may be sampled
from one shared beginning. Such siblings form a tree: they have the same first segments and differ after a segment
called the fork. The shared segments are *the same objects* in memory. So compare shared segments by identity, never by
equality.

Shape letters: S trained denoising steps, N latent tokens, D channels of a latent token, T sampled text tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True)
class Prompt:
    """A request for an image. `metadata` describes what the image must show, with the fields of the benchmark GenEval
    (`tag`, `include`, `exclude`, ...). The model never sees the metadata. Only the verifier, which judges the images,
    reads them."""

    id: str
    text: str
    metadata: dict = field(default_factory=dict)


class Statement(NamedTuple):
    """A part of a reflection that is true or false by itself. It is `text[begin:end]`. `score` says how true it is, in
    [0, 1]."""

    begin: int
    end: int
    score: float


@dataclass
class TextSegment:
    """The sampled text of one turn.

    `ids` are exactly the sampled tokens, without the begin-of-text token (bos). If the model sampled the end-of-text
    token (eos), this token is the last id, and `finished` is True. If the text ended because it reached the token
    limit, `finished` is False. An eos is then added to the text before the model continues. This added eos is not in
    `ids` and is not trained.
    """

    turn: int
    ids: Int[Tensor, "T"]
    logprobs: Float[Tensor, "T"]  # log-probability of each id when it was sampled, fp32
    text: str
    finished: bool
    stop: bool = False  # the text says "nothing to change"
    parent: int | None = None  # index of the segment that this text continues; None: it continues the prompt
    advantage: float | None = None  # set by credit.assign
    scores: dict[str, float | None] = field(default_factory=dict)  # by scorer of reflections; None: the scorer failed
    ends: Int[Tensor, "T"] | None = None  # characters of `text` up to the end of each token; None: not recorded
    statements: dict[str, list["Statement"]] = field(default_factory=dict)  # by scorer of statements
    token_advantages: Float[Tensor, "T"] | None = None  # added to `advantage`; None: no statement of it is scored

    modality = Modality.TEXT


@dataclass
class ImageSegment:
    """A generated image with the denoising steps that were recorded when it was drawn. In training, the learner
    computes the log-probabilities of these steps again. All tensors except `pixels` are fp32."""

    turn: int
    pixels: UInt8[Tensor, "H W 3"]
    latent: Float[Tensor, "N D"]  # clean latent that conditioned later turns: a posterior *sample*
    x: Float[Tensor, "S N D"]  # state before each trained step
    x_next: Float[Tensor, "S N D"]  # state after each trained step
    mean: Float[Tensor, "S N D"]  # mean of the transition under the sampling policy
    t: Float[Tensor, "S"]  # flow time of each trained step, 1 = noise
    t_next: Float[Tensor, "S"]
    logprobs: Float[Tensor, "S"]
    grid: tuple[int, int] = (0, 0)  # latent tokens (rows, columns): N = rows * columns
    parent: int | None = None
    advantage: float | None = None
    drawn: Float[Tensor, "N D"] | None = None  # final latent, shown by `pixels`; None: the image was given
    scores: dict[str, float | None] = field(default_factory=dict)  # by scorer of edits; None: the scorer failed

    modality = Modality.IMAGE


Segment = TextSegment | ImageSegment
ScoreImages = Callable[[list[np.ndarray], list[Prompt]], Mapping[str, Sequence[float | None]]]
"""A function that scores images. It gets the images (uint8, [H, W, 3]) and their prompts. It returns a dict: for the
name of each scorer, a list with one value per image. The value is None if the scorer failed or was not asked."""


@dataclass(frozen=True)
class SamplingLaw:
    """The distribution from which texts and denoising steps were sampled. The learner (which computes the training
    loss) must use this distribution, too, because the stored log-probabilities are correct only for it. The flow times
    of the denoising steps are not stored here but in the image segments.

    `temperature` describes how the texts were sampled. `kind`, `noise_level` and `t_second` describe the denoising
    steps that add noise. If these three are None, no denoising steps were recorded. The learner then uses no
    log-probabilities of images, so it does not matter how the images were generated.
    """

    temperature: float
    kind: str | None  # a value of flow.Transition
    noise_level: float | None
    t_second: float | None  # second time of the grid, for Flow-SDE's first step
    dtype: str = "fp32"  # number type of the forward pass: fp32 or bf16


@dataclass
class Trajectory:
    """One sampled answer to a prompt, with the scores of its images.

    rewards: `rewards[name][k]` is the score of scorer `name` for the image of turn k. It is None if the scorer failed:
    a failure is never stored as a number (invariant 2 of docs/architecture.md). A scorer that is not used for the
    prompt has no entry.
    version, digest: the number and the hash of the weights that sampled this trajectory (invariant 4 of
    docs/architecture.md).
    law: the distribution from which this trajectory was sampled. None means that it must not be used for training.
    """

    prompt: Prompt
    sample: int
    segments: list[Segment]
    history: str = "last"
    stopped: bool = False
    version: int = 0
    digest: str = ""
    law: SamplingLaw | None = None
    rewards: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def images(self) -> list[ImageSegment]:
        return [s for s in self.segments if isinstance(s, ImageSegment)]

    @property
    def texts(self) -> list[TextSegment]:
        return [s for s in self.segments if isinstance(s, TextSegment)]

    @property
    def turns(self) -> int:
        """Return the number of images in the trajectory."""
        return len(self.images)

    def text(self, index: int) -> TextSegment:
        """Return segment `index`, which must be a text."""
        segment = self.segments[index]
        assert isinstance(segment, TextSegment), f"prompt {self.prompt.id!r}: segment {index} is an image"
        return segment

    def image(self, index: int) -> ImageSegment:
        """Return segment `index`, which must be an image."""
        segment = self.segments[index]
        assert isinstance(segment, ImageSegment), f"prompt {self.prompt.id!r}: segment {index} is a text"
        return segment


@dataclass
class Group:
    """All trajectories sampled from one prompt. They are always treated together: a group is started, sampled, scored,
    and trained or dropped as a whole."""

    id: int
    prompt: Prompt
    trajectories: list[Trajectory]
    version: int = 0

    @property
    def segments(self) -> list[Segment]:
        """Return the segments of all trajectories, in order. A segment that several trajectories share is returned only
        once."""
        return list({id(s): s for t in self.trajectories for s in t.segments}.values())

    @property
    def images(self) -> list[ImageSegment]:
        return [s for s in self.segments if isinstance(s, ImageSegment)]

    def tokens(self) -> int:
        """Return the number of sampled text tokens in the group. A text that several trajectories share is counted only
        once."""
        return sum(int(s.ids.numel()) for s in self.segments if isinstance(s, TextSegment))


def trees(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Split a list of trajectories into trees, and return the list of trees. A tree is the list of all trajectories
    that begin with the same segment (the same text object). Such trajectories must be neighbours in the input. A
    trajectory that shares its first segment with no other trajectory is a tree of its own."""
    return [list(siblings) for _, siblings in groupby(trajectories, key=lambda t: id(t.segments[0]))]


def forks(paths: Iterable[Sequence[Segment]]) -> set[int]:
    """Find the segments after which trajectories separate, and return the set of their id(). `paths` has the list of
    segments of each trajectory. A segment counts if it is in at least two of these lists and different segments come
    after it."""
    following: dict[int, set[int]] = {}
    for segments in paths:
        for segment, after in zip(segments, segments[1:]):
            following.setdefault(id(segment), set()).add(id(after))
    return {segment for segment, after in following.items() if len(after) > 1}


def score_images(
    trajectories: Sequence[Trajectory], score: ScoreImages, used: Callable[[str, Prompt], bool] | None = None
) -> None:
    """Score all images with the function `score`, and store the scores in the `rewards` of the trajectories. An image
    that several trajectories share is scored once. `used(name, prompt)` says whether a scorer is used for a prompt. If
    it is not, the `rewards` of the prompt's trajectories have no entry for the scorer. None means that all scorers are
    used for all prompts."""
    images = {id(image): (image, t.prompt) for t in trajectories for image in t.images}
    found = score([image.pixels.cpu().numpy() for image, _ in images.values()], [p for _, p in images.values()])
    index = {image: number for number, image in enumerate(images)}
    for trajectory in trajectories:
        own = [index[id(image)] for image in trajectory.images]
        scores = {name: values for name, values in found.items() if used is None or used(name, trajectory.prompt)}
        trajectory.rewards = {name: [values[number] for number in own] for name, values in scores.items()}

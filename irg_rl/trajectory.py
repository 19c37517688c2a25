"""The data that all packages exchange: prompts, segments, trajectories and groups.

A trajectory is one sampled answer to a prompt: text, image, text, image, ... Each text and each image is a *segment*. A
segment has a turn, a modality (text or image) and a parent (the segment that it continues). Turn 0 is (think text,
first image). Turn k >= 1 is (reflection, refined image). A reflection that says "nothing to change" ends the trajectory
without an image.

A group has all trajectories that were sampled from one prompt. They are called siblings. Siblings may have the same
first segments and then fork; together they form a tree. They share these segments as *the same objects*. So compare
shared segments by identity, never by equality.

Shape letters: S trained denoising steps, N latent tokens, D channels of a latent token, T sampled text tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True)
class Prompt:
    """A request for an image. `metadata` has the fields that the benchmark GenEval uses to describe what the image must
    show (`tag`, `include`, `exclude`, ...). Only the verifier, which judges the images, reads it."""

    id: str
    text: str
    metadata: dict = field(default_factory=dict)


@dataclass
class TextSegment:
    """The sampled text of one turn.

    `ids` are exactly the sampled tokens, without the begin-of-text token (bos). If the end-of-text token (eos) was
    sampled, it is the last id, and `finished` is True. If the text was cut at the token limit, `finished` is False. The
    sampler then closes the text in the context with an eos that has no loss.
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

    modality = Modality.TEXT


@dataclass
class ImageSegment:
    """A generated image with its recorded denoising steps. The learner computes the log-probabilities of these steps
    again. All tensors except `pixels` are fp32."""

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
name of each scorer, a list with one value per image. The value is None if the scorer failed."""


@dataclass(frozen=True)
class SamplingLaw:
    """The distribution from which texts and denoising steps were sampled. The learner must use this distribution, too,
    because the stored log-probabilities are correct only for it. The flow times of the steps are not stored here but in
    the segments.

    `temperature` describes how the texts were sampled. `kind`, `noise_level` and `t_second` describe the noisy
    denoising steps. If these three are None, no denoising steps were recorded. The learner then cannot compute
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

    rewards: rewards[name][k] is the score of scorer `name` for the image of turn k. It is None if the scorer failed: a
    failure is never stored as a number (invariant 2 of docs/architecture.md).

    version, digest: identify the weights that sampled this trajectory (invariant 4 of docs/architecture.md).

    law: how this trajectory was sampled. None means that it must not be used for training.
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
        """The number of generated images."""
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
        """The segments of all trajectories, in order. A segment that several trajectories share appears only once."""
        return list({id(s): s for t in self.trajectories for s in t.segments}.values())

    @property
    def images(self) -> list[ImageSegment]:
        return [s for s in self.segments if isinstance(s, ImageSegment)]

    def tokens(self) -> int:
        """Return the number of sampled text tokens in the group."""
        return sum(int(s.ids.numel()) for s in self.segments if isinstance(s, TextSegment))


def trees(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Split a list of trajectories into trees. A tree is a list of trajectories that begin with the same segment (the
    same object). Trajectories of one tree must be neighbours in the input. A trajectory whose first segment occurs in
    no other trajectory is a tree of its own."""
    return [list(siblings) for _, siblings in groupby(trajectories, key=lambda t: id(t.segments[0]))]


def forks(paths: Iterable[Sequence[Segment]]) -> set[int]:
    """Return the id() of every segment at which the given lists of segments fork. At such a segment, at least two of
    the lists continue with different segments."""
    following: dict[int, set[int]] = {}
    for segments in paths:
        for segment, after in zip(segments, segments[1:]):
            following.setdefault(id(segment), set()).add(id(after))
    return {segment for segment, after in following.items() if len(after) > 1}


def score_images(trajectories: Sequence[Trajectory], score: ScoreImages) -> None:
    """Score all images with the function `score`, and store the scores in the `rewards` of the trajectories. An image
    that several trajectories share is scored once."""
    images = {id(image): (image, t.prompt) for t in trajectories for image in t.images}
    found = score([image.pixels.cpu().numpy() for image, _ in images.values()], [p for _, p in images.values()])
    index = {image: number for number, image in enumerate(images)}
    for trajectory in trajectories:
        own = [index[id(image)] for image in trajectory.images]
        trajectory.rewards = {name: [values[number] for number in own] for name, values in found.items()}

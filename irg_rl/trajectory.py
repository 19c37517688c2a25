"""The data that all packages exchange: prompts, segments, trajectories and groups.

A trajectory is one sampled answer to a prompt: text, image, text, image, ... Every part is a *segment* with a turn, a
modality and a parent, so siblings that share a prefix form a tree. Turn 0 is (think text, first image). Turn k >= 1 is
(reflection, refined image). A reflection that says "nothing to change" ends the trajectory without an image.

Siblings of a fork share segments as *the same objects*: their lists of segments begin with the same ones. So compare
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
    """A request. `metadata` follows GenEval (`tag`, `include`, `exclude`, ...). Only the verifier reads it."""

    id: str
    text: str
    metadata: dict = field(default_factory=dict)


@dataclass
class TextSegment:
    """Sampled text of one turn.

    `ids` are exactly the sampled tokens: without bos, and with the closing eos if it was sampled (`finished`). A text
    that was cut at the token limit has `finished = False`. The sampler then closes it in the context with an eos that
    has no loss.
    """

    turn: int
    ids: Int[Tensor, "T"]
    logprobs: Float[Tensor, "T"]  # log-probability of each id when it was sampled, fp32
    text: str
    finished: bool
    stop: bool = False  # the text says "nothing to change"
    parent: int | None = None  # index of the segment it continues; None: the prompt
    advantage: float | None = None  # set by credit.assign
    scores: dict[str, float | None] = field(default_factory=dict)  # of scorers of reflections; None: the scorer failed

    modality = Modality.TEXT


@dataclass
class ImageSegment:
    """A drawn image with its recorded denoising steps, which the learner scores again. All tensors are fp32."""

    turn: int
    pixels: UInt8[Tensor, "H W 3"]
    latent: Float[Tensor, "N D"]  # clean latent that conditioned later turns: a posterior *sample*
    x: Float[Tensor, "S N D"]  # state before each trained step
    x_next: Float[Tensor, "S N D"]  # state after it
    mean: Float[Tensor, "S N D"]  # mean of the transition under the sampling policy
    t: Float[Tensor, "S"]  # flow time of each trained step, 1 = noise
    t_next: Float[Tensor, "S"]
    logprobs: Float[Tensor, "S"]
    grid: tuple[int, int] = (0, 0)  # latent tokens (rows, columns): N = rows * columns
    parent: int | None = None
    advantage: float | None = None
    drawn: Float[Tensor, "N D"] | None = None  # the final state, which `pixels` shows; None: a given image
    scores: dict[str, float | None] = field(default_factory=dict)  # of scorers of edits; None: the scorer failed

    modality = Modality.IMAGE


Segment = TextSegment | ImageSegment
ScoreImages = Callable[[list[np.ndarray], list[Prompt]], Mapping[str, Sequence[float | None]]]
"""Images (uint8, [H, W, 3]) and their prompts -> scorer -> one value per image, None where the scorer failed."""


@dataclass(frozen=True)
class SamplingLaw:
    """The distribution that texts and denoising steps were sampled from. The learner must replay the same one: stored
    log-probabilities hold for this law only. The times of the steps are stored in the segments.

    `kind`, `noise_level` and `t_second` are None if the law covers only the texts. The images then have no steps to
    replay and may have been drawn in any way.
    """

    temperature: float
    kind: str | None  # flow.Transition
    noise_level: float | None
    t_second: float | None  # second time of the grid, for Flow-SDE's first step
    dtype: str = "fp32"  # of the forward: fp32 or bf16


@dataclass
class Trajectory:
    """One sample of a group, with the scores of its images.

    rewards: rewards[name][k] is the score of scorer `name` for the image of turn k. None: the scorer failed; a failure
        is never a number (invariant 2).
    version, digest: the weights that sampled it (invariant 4).
    law: how it was sampled; None: not for training.
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
        """Number of images drawn."""
        return len(self.images)

    def text(self, index: int) -> TextSegment:
        """Segment `index`, which must be a text."""
        segment = self.segments[index]
        assert isinstance(segment, TextSegment), f"prompt {self.prompt.id!r}: segment {index} is an image"
        return segment

    def image(self, index: int) -> ImageSegment:
        """Segment `index`, which must be an image."""
        segment = self.segments[index]
        assert isinstance(segment, ImageSegment), f"prompt {self.prompt.id!r}: segment {index} is a text"
        return segment


@dataclass
class Group:
    """Siblings sampled from one prompt. A group is admitted, sampled, scored, trained or dropped as a whole."""

    id: int
    prompt: Prompt
    trajectories: list[Trajectory]
    version: int = 0

    @property
    def segments(self) -> list[Segment]:
        """All segments in order. A segment that siblings share appears once."""
        return list({id(s): s for t in self.trajectories for s in t.segments}.values())

    @property
    def images(self) -> list[ImageSegment]:
        return [s for s in self.segments if isinstance(s, ImageSegment)]

    def tokens(self) -> int:
        """Sampled text tokens in the group."""
        return sum(int(s.ids.numel()) for s in self.segments if isinstance(s, TextSegment))


def trees(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Split into trees: neighbours that share their first segment belong together. Without forks, one each."""
    return [list(siblings) for _, siblings in groupby(trajectories, key=lambda t: id(t.segments[0]))]


def forks(paths: Iterable[Sequence[Segment]]) -> set[int]:
    """The segments, by id(), that more than one segment follows in these lists of segments."""
    following: dict[int, set[int]] = {}
    for segments in paths:
        for segment, after in zip(segments, segments[1:]):
            following.setdefault(id(segment), set()).add(id(after))
    return {segment for segment, after in following.items() if len(after) > 1}


def score_images(trajectories: Sequence[Trajectory], score: ScoreImages) -> None:
    """Score all images and store the scores as `rewards`. An image that siblings share is scored once."""
    images = {id(image): (image, t.prompt) for t in trajectories for image in t.images}
    found = score([image.pixels.cpu().numpy() for image, _ in images.values()], [p for _, p in images.values()])
    index = {image: number for number, image in enumerate(images)}
    for trajectory in trajectories:
        own = [index[id(image)] for image in trajectory.images]
        trajectory.rewards = {name: [values[number] for number in own] for name, values in found.items()}

"""What travels between the rooms: prompts, segments, trajectories and groups.

A trajectory is one sampled answer to a prompt: text, image, text, image, ... Every piece is a *segment* with a turn, a
modality and a parent, so a group of siblings that share a prefix is a tree. Turn 0 is (think, first image); turn k >= 1
is (reflection, refined image). A reflection that says "nothing to change" ends the trajectory without an image.

Siblings of a fork share what they have in common as *one object*: their lists of segments begin with the same ones.
Whatever asks if two trajectories share a segment asks for identity, never for equality.

Shape letters: S trained denoising steps, N latent tokens, D channels of a latent token, T sampled text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True)
class Prompt:
    """A request. `metadata` is GenEval's (`tag`, `include`, `exclude`, ...) and is read by the verifier alone."""

    id: str
    text: str
    metadata: dict = field(default_factory=dict)


@dataclass
class TextSegment:
    """Sampled text of one turn. `ids` are exactly the sampled tokens (token-in token-out): no bos, and the closing eos
    when it was sampled (`finished`). A segment cut off at the token limit has `finished = False`; the sampler closes
    it in the context with an eos that carries no loss."""

    turn: int
    ids: Int[Tensor, "T"]
    logprobs: Float[Tensor, "T"]  # log-probability of each id when it was sampled, fp32
    text: str
    finished: bool
    stop: bool = False  # the text says that nothing is to be changed
    parent: int | None = None  # index of the segment it continues; None: the prompt
    advantage: float | None = None  # set by credit.assign

    modality = Modality.TEXT


@dataclass
class ImageSegment:
    """A drawn image and what the learner needs to score its denoising steps again, all fp32."""

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
    drawn: Float[Tensor, "N D"] | None = None  # the state at t = 0 that `pixels` shows; None: a picture that was given

    modality = Modality.IMAGE


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class SamplingLaw:
    """How actions were drawn, the replay contract: log-probabilities hold under this law and no other. The times of the
    denoising steps that were drawn stand in their segments; the weights are named by version and digest.

    `kind`, `noise_level` and `t_second` are None where the law is that of the texts alone: the images have no steps to
    replay, and may have been drawn in any way.
    """

    temperature: float
    kind: str | None  # flow.Transition
    noise_level: float | None
    t_second: float | None  # second time of the grid, for Flow-SDE's first step
    dtype: str = "fp32"  # of the forward: fp32 or bf16


@dataclass
class Trajectory:
    """One sample of a group, with the scores of its images.

    `rewards[name][k]` is scorer `name`'s value for the image of turn k; None means the scorer failed, never
    a number (invariant 2). `version` and `digest` name the weights that sampled it (invariant 4), `law` how it was
    drawn; None: not for training.
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
    """Siblings sampled from one prompt: the unit that is admitted, sampled, scored, trained or dropped as a whole."""

    id: int
    prompt: Prompt
    trajectories: list[Trajectory]
    version: int = 0

    @property
    def segments(self) -> list[Segment]:
        """All segments in order, those that siblings share once."""
        return list({id(s): s for t in self.trajectories for s in t.segments}.values())

    @property
    def images(self) -> list[ImageSegment]:
        return [s for s in self.segments if isinstance(s, ImageSegment)]

    def tokens(self) -> int:
        """Sampled text tokens in the group."""
        return sum(int(s.ids.numel()) for s in self.segments if isinstance(s, TextSegment))


def trees(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Neighbours that share their first segment, together: the siblings of one trunk. Without forks, one each."""
    return [list(siblings) for _, siblings in groupby(trajectories, key=lambda t: id(t.segments[0]))]



"""A request to the sampler: a prompt, the names of its random numbers, and parts that are given, not sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from jaxtyping import Int, UInt8
from torch import Tensor

from irg_rl.trajectory import Prompt
from rollouts.noise import Noise

Text = str | Int[Tensor, "T"]
"""A text, or its ids without bos, with or without the closing eos."""


@dataclass(frozen=True)
class Request:
    """One trajectory to sample.

    Given parts enter the context instead of sampled ones. A given text has log-probabilities of NaN and a given image
    has no denoising steps, so they cannot be trained by mistake.
    """

    prompt: Prompt
    sample: int = 0
    seed: int = 0
    """Seed of the run, the group or the evaluation. Seed, prompt id and sample name every random number."""
    iteration: int = 0
    """Number of the RL update; it moves the `progressive` window."""
    think: Text | None = None
    first_image: UInt8[Tensor, "H W 3"] | None = None
    reflections: Mapping[int, Text] = field(default_factory=dict)
    """Given reflections by turn, 1 and up."""
    forks: Mapping[int, int] = field(default_factory=dict)
    """Turn (1 and up) -> number of branches that every trajectory makes at the start of that turn. The samples of a
    group are the leaves of the trees, numbered from left to right. With {1: 2, 2: 3} samples 0 to 5 share turn 0, and
    samples 0 to 2 share turn 1."""

    def __post_init__(self) -> None:
        if self.forks and (self.think is not None or self.first_image is not None or self.reflections):
            raise ValueError("a request with forks samples all of its parts: give parts or forks, not both")
        if any(turn < 1 for turn in self.forks):
            raise ValueError(f"forks are at turns 1 and up, given at turns {sorted(self.forks)}")
        if any(turn < 1 for turn in self.reflections):
            raise ValueError(f"reflections belong to turns 1 and up, given for turns {sorted(self.reflections)}")

    def owner(self, turn: int) -> int:
        """The sample whose random numbers are used in that turn: the first of the samples that share it."""
        return self.sample - self.sample % prod(ways for at, ways in self.forks.items() if at > turn)

    def noise(self, turn: int) -> Noise:
        """All random numbers of that turn."""
        return Noise(self.seed, self.prompt.id, self.owner(turn))

    def shares(self, other: "Request", turn: int) -> bool:
        """Whether the two requests share their trajectory up to the end of that turn."""
        if not self.forks:
            return False
        mine, theirs = ((r.seed, r.prompt, r.iteration, r.forks, r.owner(turn)) for r in (self, other))
        return mine == theirs

    def text(self, turn: int) -> Text | None:
        return self.think if turn == 0 else self.reflections.get(turn)


@dataclass(frozen=True)
class StopPhrase:
    """A reflection ends the trajectory when it contains `phrase`, in upper or lower case."""

    phrase: str = "nothing to change"

    def __call__(self, text: str) -> bool:
        return self.phrase.lower() in text.lower()


def never(text: str) -> bool:
    """No reflection ends the trajectory: all turns are drawn."""
    return False

"""A request to the sampler for one trajectory. It has a prompt, a seed and a sample number. The seed and the sample
number determine the random numbers. A request can also give texts and images of the trajectory, which are then not
sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from jaxtyping import Int, UInt8
from torch import Tensor

from irg_rl.stop_phrase import says
from irg_rl.trajectory import Prompt
from rollouts.noise import Noise

Text = str | Int[Tensor, "T"]
"""A text as a string, or as token ids. The ids do not include bos. The closing eos may be included or not."""


@dataclass(frozen=True)
class Request:
    """A request to the sampler for one trajectory.

    The request can give a think text, a first image and reflections. Given texts and images are not sampled. They enter
    the context as if the model had made them. The log-probabilities of a given text are NaN, and a given image has no
    recorded denoising steps. So given texts and images cannot be trained by mistake.
    """

    prompt: Prompt
    sample: int = 0
    seed: int = 0
    """Seed of the run, of the group or of the evaluation. The seed, the prompt id and the sample together determine
    every random number."""
    iteration: int = 0
    """Number of the RL update. With `window: progressive`, it determines which denoising steps are noisy."""
    think: Text | None = None
    first_image: UInt8[Tensor, "H W 3"] | None = None
    reflections: Mapping[int, Text] = field(default_factory=dict)
    """Turn -> the reflection that is given for this turn. Turns with a reflection are 1 and up."""
    forks: Mapping[int, int] = field(default_factory=dict)
    """Turn (1 and up) -> number of branches into which every trajectory splits at the start of that turn. The samples
    of a group are then the leaves of trees, numbered from left to right. For example, with {1: 2, 2: 3} samples 0 to 5
    share turn 0, and samples 0 to 2 share turn 1."""

    def __post_init__(self) -> None:
        if self.forks and (self.think is not None or self.first_image is not None or self.reflections):
            raise ValueError("a request with forks samples all of its parts: give parts or forks, not both")
        if any(turn < 1 for turn in self.forks):
            raise ValueError(f"forks are at turns 1 and up, given at turns {sorted(self.forks)}")
        if any(turn < 1 for turn in self.reflections):
            raise ValueError(f"reflections belong to turns 1 and up, given for turns {sorted(self.reflections)}")

    def owner(self, turn: int) -> int:
        """Return the number of a sample. In this turn, the request uses the random numbers of this sample. At a fork,
        several samples are continued from one shared beginning. In the turns of the shared beginning, all these samples
        use the random numbers of their first sample (lowest number). In all other turns, each sample uses its own
        random numbers."""
        return self.sample - self.sample % prod(ways for at, ways in self.forks.items() if at > turn)

    def noise(self, turn: int) -> Noise:
        """Return the source of all random numbers of this turn."""
        return Noise(self.seed, self.prompt.id, self.owner(turn))

    def shares(self, other: "Request", turn: int) -> bool:
        """Return whether the trajectories of the two requests have the same texts and images up to the end of this
        turn. This is so if the trajectories have one shared beginning (see the field `forks`) and separate only in a
        later turn."""
        if not self.forks:
            return False
        mine, theirs = ((r.seed, r.prompt, r.iteration, r.forks, r.owner(turn)) for r in (self, other))
        return mine == theirs

    def text(self, turn: int) -> Text | None:
        return self.think if turn == 0 else self.reflections.get(turn)


@dataclass(frozen=True)
class StopPhrase:
    """A test that ends a trajectory. It is true if a sentence of the reflection ends with `phrase`, in upper or lower
    case (see irg_rl/stop_phrase.py). A reflection that goes on after the phrase, such as "nothing to change in the sky,
    but the dog must be red", does not end the trajectory."""

    phrase: str

    def __call__(self, text: str) -> bool:
        return says(self.phrase, text)


def never(text: str) -> bool:
    """Return False for every reflection. So no reflection ends the trajectory, and all turns are drawn."""
    return False

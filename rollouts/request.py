"""What is asked of the sampler: a prompt, the names of its random numbers, and the parts that are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Int, UInt8
from torch import Tensor

from irg_rl.trajectory import Prompt

Text = str | Int[Tensor, "T"]
"""Text, or its ids without bos; a closing eos may be there or not."""


@dataclass(frozen=True)
class Request:
    """One trajectory to sample. Parts that are given are put into the context instead of being sampled; they carry
    log-probabilities of NaN (text) or no denoising steps (image), so they cannot be trained by mistake."""

    prompt: Prompt
    sample: int = 0
    seed: int = 0
    """Of the run, the group or the evaluation; with prompt id and sample it names every random number."""
    iteration: int = 0
    """RL update, which moves the `progressive` window."""
    think: Text | None = None
    first_image: UInt8[Tensor, "H W 3"] | None = None
    reflections: Mapping[int, Text] = field(default_factory=dict)
    """Given reflections by turn, 1 and up."""

    def __post_init__(self) -> None:
        if any(turn < 1 for turn in self.reflections):
            raise ValueError(f"reflections belong to turns 1 and up, given for turns {sorted(self.reflections)}")

    def text(self, turn: int) -> Text | None:
        return self.think if turn == 0 else self.reflections.get(turn)


@dataclass(frozen=True)
class StopPhrase:
    """A reflection ends the trajectory when it contains `phrase`, in any case."""

    phrase: str = "nothing to change"

    def __call__(self, text: str) -> bool:
        return self.phrase.lower() in text.lower()

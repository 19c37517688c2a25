"""Small trajectories whose images carry their own verdict in one pixel, so that every expected figure is countable."""

from dataclasses import dataclass

import torch

from irg_rl.task import Verdict
from irg_rl.trajectory import ImageSegment, Prompt, TextSegment, Trajectory


def text(turn: int, words: str, stop: bool = False) -> TextSegment:
    return TextSegment(turn, torch.tensor([1, 2]), torch.zeros(2), words, finished=True, stop=stop)


def image(turn: int, right: bool, score: float) -> ImageSegment:
    pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = int(right), int(round(score * 100))
    steps = torch.zeros(1, 1, 1)
    return ImageSegment(
        turn, pixels, torch.zeros(1, 1), steps, steps, steps, torch.ones(1), torch.zeros(1), torch.zeros(1)
    )


@dataclass(frozen=True)
class Comparison:
    first: float


def is_right(pixels) -> bool:
    return bool(pixels[0, 0, 0])


def read_pixel(images, prompts):
    """The verifier of these tests: red says right, green is the score in percent."""
    return [Verdict(is_right(pixels), int(pixels[0, 0, 1]) / 100) for pixels in images]


def trajectory(name: str, rights: list[bool], stops: bool = False, asks: str | None = None, **rewards) -> Trajectory:
    """`asks` names its set of constraints."""
    segments = []
    for turn, right in enumerate(rights):
        words = "fix: colour" if turn else "think"
        segments += [text(turn, words), image(turn, right, 1.0 if right else 0.5)]
    if stops:
        segments.append(text(len(rights), "nothing to change", stop=True))
    metadata = {"tag": "counting"} | ({} if asks is None else {"set": asks})
    return Trajectory(Prompt(name, f"draw {name}", metadata), 0, segments, stopped=stops, rewards=rewards)

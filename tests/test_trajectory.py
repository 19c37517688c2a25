"""What all packages ask of trajectories: shared segments, forks, scores of images, typed access."""

import numpy as np
import pytest
import torch

from irg_rl.trajectory import ImageSegment, Prompt, TextSegment, Trajectory, forks, score_images

PROMPT = Prompt("p", "a red circle")


def text(turn: int = 0) -> TextSegment:
    return TextSegment(turn, torch.tensor([1]), torch.zeros(1), "words", True)


def image(turn: int = 0, brightness: int = 0) -> ImageSegment:
    steps, times = torch.zeros(0, 1, 4), torch.zeros(0)
    pixels = torch.full((2, 2, 3), brightness, dtype=torch.uint8)
    return ImageSegment(turn, pixels, torch.zeros(1, 4), steps, steps, steps, times, times, times)


def test_a_fork_is_a_segment_that_several_segments_follow():
    think, first, one, other = text(), image(), text(1), text(1)
    assert forks([[think, first, one], [think, first, other]]) == {id(first)}
    assert forks([[think, first, one], [think, first, one]]) == set()
    assert forks([[think, first], [think, first, other]]) == set()


def test_an_image_that_siblings_share_is_scored_once():
    shared, one, other = image(0, 10), image(1, 20), image(1, 30)
    siblings = [Trajectory(PROMPT, i, [text(), shared, text(1), last]) for i, last in enumerate((one, other))]
    asked = []

    def brightness(images: list[np.ndarray], prompts: list[Prompt]) -> dict[str, list[float | None]]:
        asked.extend(prompts)
        return {"brightness": [float(pixels.mean()) for pixels in images], "broken": [None] * len(images)}

    score_images(siblings, brightness)
    assert asked == [PROMPT] * 3
    assert [t.rewards["brightness"] for t in siblings] == [[10.0, 20.0], [10.0, 30.0]]
    assert siblings[0].rewards["broken"] == [None, None]


def test_a_segment_of_the_other_modality_is_refused():
    trajectory = Trajectory(PROMPT, 0, [text(), image()])
    assert trajectory.text(0).text == "words" and trajectory.image(1).turn == 0
    with pytest.raises(AssertionError, match="segment 1 is an image"):
        trajectory.text(1)
    with pytest.raises(AssertionError, match="segment 0 is a text"):
        trajectory.image(0)

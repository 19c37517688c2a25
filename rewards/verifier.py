"""The shapes world's own checker as a scorer: rule-based, exact, and the only one that may read metadata."""

import numpy as np

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.reading import read_batch
from irg_rl.shapes_world.scene import WORLD
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, require_pairs


class VerifierScorer:
    """Graded score in [0, 1], 1 iff the official verdict passes. An image that is not of the world's size, and a
    prompt whose metadata it does not understand, are failures."""

    def __init__(self, name: str = "verifier") -> None:
        self.name = name
        self.last_error = ""

    def check(self) -> None:
        """Nothing outside this process is needed."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        scores: list[Score] = [None] * len(images)
        side = WORLD.pixels
        readable = [i for i, image in enumerate(images) if image.shape == (side, side, 3)]
        if len(readable) < len(images):
            self.last_error = f"an image is not {side} x {side} pixels, the size of the shapes world"
        if not readable:
            return scores
        for i, reading in zip(readable, read_batch(np.stack([images[i] for i in readable])), strict=True):
            try:
                scores[i] = judge(reading, prompts[i].metadata).score
            except ValueError as error:
                self.last_error = f"prompt {prompts[i].id!r}: {error}"
        return scores

"""The shapes world's own checker as a scorer: rule-based, exact, and the only one that may read metadata."""

import numpy as np

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.reading import read_batch
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
        return [self._one(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _one(self, image: Image, prompt: Prompt) -> Score:
        try:
            return judge(read_batch(np.asarray(image)[None])[0], prompt.metadata).score
        except ValueError as error:
            self.last_error = f"prompt {prompt.id!r}: {error}"
            return None

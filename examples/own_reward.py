"""A reward of one's own: the share of a picture's light that is green. In a recipe, beside this file or run from here:

rewards: {scorers: [{name: green, kind: own_reward:Green, options: {scale: 2.0}}]}
"""

import numpy as np


class Green:
    def __init__(self, name: str, scale: float = 1.0) -> None:
        self.name, self.scale, self.last_error = name, scale, ""

    def check(self) -> None:
        """Called before a run: raise rewards.base.ScorerUnavailable here if a file or a server is missing."""

    def score(self, images, prompts) -> list[float | None]:
        """One number for each picture, uint8 [H, W, 3]. None, never a placeholder, where there is none."""
        if not all(image.any() for image in images):
            self.last_error = "a black picture has no light"
        return [self.scale * float(image[..., 1].sum() / image.sum()) if image.any() else None for image in images]


if __name__ == "__main__":
    meadow, night = np.full((8, 8, 3), [20, 160, 20], np.uint8), np.zeros((8, 8, 3), np.uint8)
    scorer = Green("green")
    print(scorer.score([meadow, night], [None, None]), scorer.last_error)

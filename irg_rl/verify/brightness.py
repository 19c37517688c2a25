"""The scorer of `irg-rl verify`, which needs no model."""

from irg_rl.trajectory import Prompt
from rewards.base import Image, Score


class Brightness:
    """Scores an image by its mean brightness in [0, 1]. Such scores differ between samples, also with weights that have
    learned nothing, so an update has something to learn."""

    def __init__(self, name: str) -> None:
        self.name, self.last_error = name, ""

    def check(self) -> None:
        """This scorer can always work."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        return [float(image.mean()) / 255 for image in images]

"""A task from outside of the package: walls that are to be bright."""

from collections.abc import Sequence

from irg_rl.config import Section, Share
from irg_rl.task import Pixels, Task, Verdict
from irg_rl.trajectory import Prompt


class BrightSettings(Section):
    limit: Share = 0.5
    walls: int = 8


class Bright(Task[BrightSettings]):
    settings_type = BrightSettings

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}-{n}", f"a bright wall of {n} stones") for n in range(self.settings.walls)]

    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        light = [float(image.mean()) / 255 for image in images]
        return [Verdict(share >= self.settings.limit, share) for share in light]

    def check_reflection(self, text: str, image: Pixels, prompt: Prompt) -> bool | None:
        return "dark" in text if image.mean() < 100 else None

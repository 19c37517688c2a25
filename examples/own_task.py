"""A task of one's own: walls of a colour, right where that colour leads. `task: examples.own_task:Walls` names it."""

from irg_rl.config import Section, Share
from irg_rl.task import Task, Verdict
from irg_rl.trajectory import Prompt

COLOURS = ("red", "green", "blue")


class WallSettings(Section):
    lead: Share = 0.4
    """A picture is right where so much of its light is of the colour."""


class Walls(Task[WallSettings]):
    settings_type = WallSettings

    def prompts(self, split):
        stones = {"train": range(0, 40), "validation": range(40, 50), "test": range(50, 70)}[split]
        return [Prompt(f"{colour}-{n}", f"a {colour} wall of {n} stones") for n in stones for colour in COLOURS]

    def verdicts(self, images, prompts):
        light = [image.reshape(-1, 3).sum(0) / max(int(image.sum()), 1) for image in images]
        shares = [float(one[COLOURS.index(p.text.split()[1])]) for one, p in zip(light, prompts)]
        return [Verdict(share >= self.settings.lead, share) for share in shares]

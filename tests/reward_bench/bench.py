"""A small bench: grey images whose brightness is their quality, and scorers that are right, blind, noisy or broken."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from irg_rl.reward_bench.images import BenchImage
from irg_rl.reward_bench.scoring import ScorerCase
from irg_rl.task import Verdict
from irg_rl.trajectory import Prompt
from rewards.base import Preference, ScorerUnavailable
from rewards.hub import RewardHub
from tests.rewards.scorers import Brightness

SIDE = 8


class Opposite(Brightness):
    def score(self, images, prompts):
        return [-value for value in super().score(images, prompts)]


class Shaky(Brightness):
    """Brightness with noise that is new in every call, larger than the differences between siblings."""

    def __init__(self, name):
        super().__init__(name)
        self.rng = np.random.default_rng()

    def score(self, images, prompts):
        return [value + self.rng.normal(0, 0.5) for value in super().score(images, prompts)]


class Picky(Brightness):
    """Fails on images brighter than half, and says why for each of them."""

    def score(self, images, prompts):
        values = super().score(images, prompts)
        for value in values:
            if value > 0.5:
                self.last_error = f"too bright: {value:.2f}"
        return [value if value <= 0.5 else None for value in values]


class Absent(Brightness):
    def check(self):
        raise ScorerUnavailable("no such model: put it there")


class Duel(Brightness):
    """Compares brightness, with a liking for the image that is shown first. Keeps the prompts that it compared."""

    def __init__(self, name):
        super().__init__(name)
        self.compared = []

    def prefer(self, prompts, first, second):
        self.compared += prompts
        gaps = [float(a.mean() - b.mean()) / 255 for a, b in zip(first, second, strict=True)]
        return [Preference(0.5 + gap / 4 + 0.2, 0.5 + gap / 4 - 0.2) for gap in gaps]


def case(name, kind, **more):
    return ScorerCase(name, f"tests.reward_bench.bench:{kind}", f"{name} v1", **more)


def tagged(images, *tags):
    """Give the images tags, by turns: half of them the first of two tags, and so on."""
    return [
        replace(image, prompt=replace(image.prompt, metadata={"tag": tags[n % len(tags)]}))
        for n, image in enumerate(images)
    ]


class Hubs:
    """Opens hubs of one scorer each, and counts how often each was opened and how many images it was shown."""

    def __init__(self, *cases, when=None):
        self.kinds, self.when = {case.name: case.kind for case in cases}, when or {}
        self.opened = []

    @contextmanager
    def __call__(self, name):
        hub = RewardHub(
            [{"name": name, "kind": self.kinds[name], "when": self.when}], retries=0, max_failure_share=1.0
        )
        self.opened.append(hub)
        yield hub

    def shown(self, name):
        return sum(hub.stats[name].images for hub in self.opened if name in hub.stats)


def pictures(groups=6, size=4, levels=None):
    """`groups` prompts with `size` siblings each, of different brightness."""
    rng = np.random.default_rng(0)
    found = []
    for group in range(groups):
        for sample, level in enumerate(levels or rng.permutation(np.linspace(30, 220, size)).astype(int)):
            pixels = np.full((SIDE, SIDE, 3), level, np.uint8)
            pixels[0, 0] = group  # no two images are equal
            found.append(picture(pixels, f"{group}/{sample}", f"prompt {group}", f"g{group}"))
    return found


def picture(pixels, where="x", prompt="p", group="g"):
    return BenchImage(where, Prompt(prompt, prompt), group, lambda: pixels)


def by_brightness(images, prompts):
    values = [float(image.mean()) / 255 for image in images]
    return [Verdict(value > 0.5, value) for value in values]

"""The material of a comparison: the images that all scorers are asked about, changed images, and pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float

from irg_rl.reward_bench.changes import DAMAGES, INVISIBLE, OTHER_PROMPT, nudged
from irg_rl.reward_bench.images import BenchImage
from irg_rl.reward_bench.preferences import PreferencePair
from irg_rl.reward_bench.scoring import Item, items_of
from irg_rl.reward_bench.statistics import pairs_within
from irg_rl.task import Pixels, Verdict
from irg_rl.trajectory import Prompt

ENOUGH_RIGHT = 8
"""From this number of right images on, only right images are changed. A damage cannot make a wrong image worse."""
VERDICT_BATCH = 64
GiveVerdicts = Callable[[list[Pixels], list[Prompt]], Sequence[Verdict | None]]


@dataclass(frozen=True)
class CompareSettings:
    """`rounds`: how often the same question is asked, for the noise between equal calls. `repeated` and `changed`: how
    many images are asked about again, and how many are asked about with changes. `pairs`: how many pairs are shown to
    scorers that compare two images. `seed` is the seed of the bootstrap."""

    rounds: int = 2
    repeated: int = 64
    changed: int = 48
    pairs: int = 64
    seed: int = 0


@dataclass(frozen=True)
class BenchMaterial:
    """What all scorers are asked about. `chosen` are the places, in `items`, of the images that are changed, and
    `changes` maps the name of a change to the changed images, in this order. `pairs` are pairs of people's preferences;
    their images are `firsts` and `seconds`. `shown` are pairs of places for scorers that compare two images."""

    items: list[Item]
    repeated: list[int]
    chosen: list[int]
    changes: dict[str, list[Item]]
    pairs: list[PreferencePair] = field(default_factory=list)
    firsts: list[Item] = field(default_factory=list)
    seconds: list[Item] = field(default_factory=list)
    shown: list[tuple[Item, Item]] = field(default_factory=list)

    @property
    def questions(self) -> list[Item]:
        """Return all items that are asked about once."""
        return [*self.items, *self.firsts, *self.seconds, *(i for items in self.changes.values() for i in items)]


def gather(
    images: Sequence[BenchImage],
    pairs: Sequence[PreferencePair],
    verdicts: GiveVerdicts | None,
    settings: CompareSettings,
) -> tuple[BenchMaterial, list[Verdict | None]]:
    """Read the images, get the verdicts, and choose which images are asked about again, changed, and shown in pairs.
    Return (material, one verdict per image). A verdict is None if the task has none, or the image is broken."""
    items = items_of(images)
    whole = [place for place, item in enumerate(items) if not item.problem]
    found: list[Verdict | None] = [None] * len(items)
    if verdicts is not None:
        for start in range(0, len(whole), VERDICT_BATCH):
            part = whole[start : start + VERDICT_BATCH]
            given = verdicts([items[i].image.read() for i in part], [items[i].image.prompt for i in part])
            for place, verdict in zip(part, given, strict=True):
                found[place] = verdict
    right = [place for place in whole if (verdict := found[place]) is not None and verdict.correct]
    pool = right if len(right) >= ENOUGH_RIGHT else whole
    chosen = [pool[i] for i in spread_out(len(pool), settings.changed)]
    firsts, seconds = items_of([p.first for p in pairs]), items_of([p.second for p in pairs])
    shown = list(zip(firsts, seconds)) or _told_apart(items, found)
    return BenchMaterial(
        items, [whole[i] for i in spread_out(len(whole), settings.repeated)], chosen, changed_items(items, chosen),
        list(pairs), firsts, seconds, [shown[i] for i in spread_out(len(shown), settings.pairs)],
    ), found  # fmt: skip


def _told_apart(items: Sequence[Item], verdicts: Sequence[Verdict | None]) -> list[tuple[Item, Item]]:
    """Return the pairs of siblings with different verdicts."""
    graded = graded_of(verdicts)
    places = pairs_within([item.image.cell for item in items])
    return [(items[a], items[b]) for a, b in places if graded[a] != graded[b] and np.isfinite(graded[a] + graded[b])]


def graded_of(verdicts: Sequence[Verdict | None]) -> Float[np.ndarray, "N"]:
    return np.array([np.nan if verdict is None else verdict.score for verdict in verdicts], dtype=float)


def spread_out(count: int, most: int) -> list[int]:
    """Return at most `most` of the places 0 .. count - 1, evenly spread."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most))}) if count else []


def changed_items(items: Sequence[Item], chosen: Sequence[int]) -> dict[str, list[Item]]:
    """Return the chosen images with every known change (see the module `changes`)."""
    originals = [items[place].image for place in chosen]
    made = {name: [_changed(image, change) for image in originals] for name, change in DAMAGES.items()}
    made[INVISIBLE] = [_changed(image, nudged) for image in originals]
    other = [replace(image, prompt=_other_prompt(image, originals)) for image in originals]
    if all(new.prompt.text != old.prompt.text for new, old in zip(other, originals)):
        made[OTHER_PROMPT] = other
    return {name: items_of(images) for name, images in made.items()}


def _changed(image: BenchImage, change: Callable[[Pixels], Pixels]) -> BenchImage:
    return replace(image, read=partial(_read_changed, image, change))


def _read_changed(image: BenchImage, change: Callable[[Pixels], Pixels]) -> Pixels:
    return change(image.read())


def _other_prompt(image: BenchImage, others: Sequence[BenchImage]) -> Prompt:
    """Return the prompt of the next image that has another text, or the image's own if all have the same."""
    place = next(i for i, other in enumerate(others) if other is image)
    order = [*others[place + 1 :], *others[:place]]
    return next((other.prompt for other in order if other.prompt.text != image.prompt.text), image.prompt)

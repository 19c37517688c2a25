"""Statistics of what a group has drawn and written. They need no judge. The alarms of RL watch them
(evaluate/alarms.py), because a change of them may mean that the reward is hacked.

Letters in shapes: H height, W width in pixels.
"""

from collections.abc import Iterable, Mapping
from math import ceil, isfinite, sqrt

import numpy as np

from irg_rl.evaluate.alarms import HELD_OUT, REWARD
from irg_rl.evaluate.image_statistics import colour_entropy, dark_share, edge_density, sharpness
from irg_rl.evaluate.outcomes import Statistic
from irg_rl.task import Pixels
from irg_rl.trajectory import Group, ImageSegment, TextSegment
from rewards.texts import repetition

MEASURED = 16
"""Largest number of images of a group that are measured. A group of large images is then measured in about a second."""
WORDS = 3
"""Length in words of the sequences in which repetitions and copies are counted."""
OF_IMAGES: Mapping[str, Statistic] = {
    "dark_share": dark_share, "edge_density": edge_density, "colour_entropy": colour_entropy, "sharpness": sharpness,
}  # fmt: skip


def drawn_statistics(group: Group) -> dict[str, float]:
    """Return the statistics of a group, by the names under which they are logged. Means are over images or texts, and a
    segment that several trajectories share counts once. A statistic that the group does not have is left out."""
    images, texts = group.images, [s for s in group.segments if isinstance(s, TextSegment)]
    chosen = [image.pixels.cpu().numpy() for image in images[:: max(1, ceil(len(images) / MEASURED))]]
    found = {name: _mean(statistic(pixels) for pixels in chosen) for name, statistic in OF_IMAGES.items()}
    found["text_length"] = _mean(float(text.ids.numel()) for text in texts)
    found["repetition"] = _mean(1.0 - repetition(text.text, WORDS) for text in texts)
    found["prompt_copies"] = _mean(copied(text.text, group.prompt.text) for text in texts)
    found["image_diversity"] = _mean(distance(own) for own in by_turn(images).values() if len(own) > 1)
    found["text_diversity"] = different_reflections(texts)
    return {f"drawn/{name}": value for name, value in found.items() if isfinite(value)}


def copied(text: str, prompt: str, n: int = WORDS) -> float:
    """Return the share of the n-grams of words of a text that also occur in the prompt. It is 0 if the text has fewer
    than n words.

    >>> copied("i need a red cat", "draw a red cat")
    0.3333333333333333
    """
    own, given = _grams(text, n), set(_grams(prompt, n))
    return sum(gram in given for gram in own) / len(own) if own else 0.0


def distance(images: list[Pixels]) -> float:
    """Return how far images are from each other, in [0, 1]. It is the root of the mean squared difference of two
    images, over all pairs, pixels and channels, divided by 255. With the variance v of a pixel over the images (divided
    by their number minus 1), it is sqrt(2 mean(v)) / 255. Images of another size than the first one are left out. The
    result is nan if fewer than two are left."""
    same = np.stack([image for image in images if image.shape == images[0].shape]).astype(np.float32)
    return sqrt(2.0 * float(same.var(axis=0, ddof=1).mean())) / 255.0 if len(same) > 1 else float("nan")


def different_reflections(texts: list[TextSegment]) -> float:
    """Return the share of different texts among the reflections that ask for a change, as a mean over turns. A
    reflection that says "nothing to change" is left out, because it is frequent if many images are right. The result is
    nan if no turn has two reflections that ask for a change."""
    turns: dict[int, list[str]] = {}
    for text in texts:
        if text.turn > 0 and not text.stop:
            turns.setdefault(text.turn, []).append(text.text)
    return _mean(len(set(own)) / len(own) for own in turns.values() if len(own) > 1)


def by_turn(images: Iterable[ImageSegment]) -> dict[int, list[Pixels]]:
    """Return a dict: number of a turn -> the pixels of the images that were drawn in it."""
    turns: dict[int, list[Pixels]] = {}
    for image in images:
        turns.setdefault(image.turn, []).append(image.pixels.cpu().numpy())
    return turns


def scored_statistics(
    group: Group, held_out: Iterable[str], last: float, segment_weights: Mapping[str, float]
) -> dict[str, float]:
    """Return the reward of a scored group and the mean scores of its held-out scorers, by the names under which they
    are logged.

    `last` is the mean combined reward of the last images. To it are added, for each rewarded scorer of reflections or
    edits, its weight times its mean score. A held-out scorer of images counts the last image of each trajectory. One of
    reflections or edits counts every segment. A value that is not known is left out.
    """
    rewarded = [(weight, of_segments(group, name)) for name, weight in segment_weights.items()]
    found = {REWARD: last + sum(weight * value for weight, value in rewarded if isfinite(value))}
    for name in held_out:
        scored = [t.rewards[name][-1] for t in group.trajectories if t.rewards.get(name)]
        known = [score for score in scored if score is not None]
        found[HELD_OUT + name] = _mean(known) if scored else of_segments(group, name)
    return {name: value for name, value in found.items() if isfinite(value)}


def of_segments(group: Group, name: str) -> float:
    """Return the mean score that the scorer `name` has given to reflections or edits of the group, or nan."""
    scores = [segment.scores.get(name) for segment in group.segments]
    return _mean(score for score in scores if score is not None)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values, or nan if there are none."""
    known = [value for value in values if isfinite(value)]
    return sum(known) / len(known) if known else float("nan")

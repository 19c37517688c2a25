"""Known changes of images, to find out what a scorer sees. A good scorer gives a damaged image a lower score, and an
invisibly changed image the same score."""

from collections.abc import Callable

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFilter

from irg_rl.reward_bench.images import digest_of
from irg_rl.task import Pixels

BLUR = 0.06  # radius, as a share of the shorter side
NOISE = 40.0  # standard deviation, of 255
CROP = 0.6  # share of each side that is kept

INVISIBLE = "invisible"
OTHER_PROMPT = "other prompt"
"""Name of the change that leaves the image as it is, and asks about it with the prompt of another image."""


def blurred(image: Pixels) -> Pixels:
    radius = max(BLUR * min(image.shape[:2]), 0.8)
    return np.asarray(PILImage.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image: Pixels) -> Pixels:
    return _clipped(image + _rng(image).normal(0, NOISE, image.shape))


def cropped(image: Pixels) -> Pixels:
    """Return the upper left part of the image, enlarged to its size."""
    height, width = image.shape[:2]
    part = PILImage.fromarray(image[: max(int(CROP * height), 1), : max(int(CROP * width), 1)])
    return np.asarray(part.resize((width, height), PILImage.Resampling.BICUBIC))


def recoloured(image: Pixels) -> Pixels:
    """Return the image with red as green, green as blue, and blue as red."""
    return np.ascontiguousarray(np.roll(image, 1, axis=2))


def blank(image: Pixels) -> Pixels:
    """Return an image of one colour: the mean of the image."""
    return np.broadcast_to(image.mean(axis=(0, 1)).round().astype(np.uint8), image.shape).copy()


def nudged(image: Pixels) -> Pixels:
    """Return the image with a random change of at most one level (of 255) in every value. Nobody can see it."""
    return _clipped(image.astype(float) + _rng(image).integers(-1, 2, image.shape))


DAMAGES: dict[str, Callable[[Pixels], Pixels]] = {
    "blur": blurred, "noise": noisy, "crop": cropped, "colour": recoloured, "blank": blank,
}  # fmt: skip


def _clipped(values: np.ndarray) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _rng(image: Pixels) -> np.random.Generator:
    """Return random numbers that depend only on the image. So the changed image is always the same, and the log of
    scores finds it again."""
    return np.random.default_rng(int(digest_of(image)[:16], 16))

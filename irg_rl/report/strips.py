"""Image strips: the images of one trajectory side by side, each in a frame that shows its verdict.

Small images are enlarged without smoothing, so that readers see exactly what the model drew.
"""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SMALLEST_SIDE = 128  # pixels; a smaller image is enlarged by a whole factor to at least this side
LARGEST_SIDE = 384  # pixels; a larger image is reduced, so that the report has only a few megabytes
FRAME = 4
GAP = 8
WHITE, RIGHT, WRONG, UNKNOWN = (255, 255, 255), (34, 139, 84), (200, 60, 50), (150, 150, 150)


def png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Return the bytes of a PNG file that contains these pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def fit(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image at a readable size. A small image is enlarged by a whole factor (nearest neighbour), and a large
    image is reduced (area mean)."""
    height, width = pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        image = Image.fromarray(pixels)
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
        return np.asarray(image)
    factor = max(1, -(-SMALLEST_SIDE // max(height, width)))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def strip(
    images: Sequence[UInt8[np.ndarray, "H W 3"]], correct: Sequence[bool | None] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the images side by side, each in a coloured frame. `correct` has one verdict per image: True gives a green
    frame (right), False a red one (wrong), and None a grey one (no verdict). If `correct` itself is None, all frames
    are grey.

    Raises ValueError if there is no image, or if the number of verdicts is not the number of images.
    """
    verdicts = [None] * len(images) if correct is None else list(correct)
    if not images or len(verdicts) != len(images):
        raise ValueError(f"a strip needs images and a verdict for each: got {len(images)} and {len(verdicts)}")
    framed = [_framed(fit(pixels), verdict) for pixels, verdict in zip(images, verdicts, strict=True)]
    height = max(pixels.shape[0] for pixels in framed)
    width = sum(pixels.shape[1] for pixels in framed) + GAP * (len(framed) - 1)
    canvas = np.full((height, width, 3), WHITE, dtype=np.uint8)
    left = 0
    for pixels in framed:
        canvas[: pixels.shape[0], left : left + pixels.shape[1]] = pixels
        left += pixels.shape[1] + GAP
    return canvas


def same_size(pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return copies of the images that all have one size: each image is put in the upper left corner of a white canvas.
    wandb needs this, because it shows images of different sizes wrongly in one panel."""
    height, width = (max((picture.shape[side] for picture in pictures), default=0) for side in (0, 1))
    canvases = []
    for picture in pictures:
        canvas = np.full((height, width, 3), WHITE, dtype=np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        canvases.append(canvas)
    return canvases


def _framed(pixels: UInt8[np.ndarray, "H W 3"], correct: bool | None) -> UInt8[np.ndarray, "h w 3"]:
    colour = UNKNOWN if correct is None else RIGHT if correct else WRONG
    height, width = pixels.shape[:2]
    framed = np.full((height + 2 * FRAME, width + 2 * FRAME, 3), colour, dtype=np.uint8)
    framed[FRAME:-FRAME, FRAME:-FRAME] = pixels
    return framed

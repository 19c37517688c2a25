"""Prepares images for the model: BAGEL's resize rules, conversion of bytes to pixels, and patches for the vision
tower."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from irg_rl.model.autoencoder import from_uint8
from irg_rl.model.latents import patchify

MAX_PIXELS = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class Resize:
    """A rule for resizing images. The longest side is at most `max_side`, and the shortest side is at least `min_side`.
    A very long image cannot satisfy both limits. For such an image, only `max_side` is kept. Both sides are multiples
    of `stride`. The area is limited by `max_pixels`."""

    max_side: int
    min_side: int
    stride: int
    max_pixels: int = MAX_PIXELS

    def size(self, width: int, height: int, images: int = 1) -> tuple[int, int]:
        """Return the (width, height) of an image after resizing. The arguments `width` and `height` are its sides
        before resizing.

        `images` is the number of images that share the limit `max_pixels`, so each of them may have `max_pixels /
        images` pixels. If an image has more, each *side* is multiplied by the ratio (allowed pixels / pixels of the
        image). (BAGEL takes no square root of this ratio, and its checkpoints are trained that way.)
        """
        scale = min(self.max_side / max(width, height), 1.0)
        scale = max(scale, self.min_side / min(width, height))
        sides = self._rounded(width, height, scale)
        budget = self.max_pixels / images
        if sides[0] * sides[1] > budget:
            sides = self._rounded(*sides, budget / (sides[0] * sides[1]))
        if max(sides) > self.max_side:
            sides = self._rounded(*sides, self.max_side / max(sides))
        return sides

    def _rounded(self, width: int, height: int, scale: float) -> tuple[int, int]:
        stride = self.stride
        first, second = (max(stride, round(round(side * scale) / stride) * stride) for side in (width, height))
        return first, second

    def __call__(self, image: UInt8[Tensor, "H W 3"], images: int = 1) -> UInt8[Tensor, "h w 3"]:
        """Resize an image with Pillow (bicubic with antialiasing). Return the same tensor if the size is already
        right."""
        height, width = image.shape[:2]
        size = self.size(width, height, images)
        if size == (width, height):
            return image
        return from_pil(Image.fromarray(image.numpy()).resize(size, Image.Resampling.BICUBIC))


def from_pil(image: Image.Image) -> UInt8[Tensor, "H W 3"]:
    """Convert a Pillow image to a tensor of RGB bytes. Transparent areas become white."""
    if "A" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=picture.getchannel("A"))
        image = white
    return torch.from_numpy(np.array(image.convert("RGB")))


def vit_patches(image: UInt8[Tensor, "H W 3"], patch_size: int) -> tuple[Float[Tensor, "P patch"], tuple[int, int]]:
    """Cut an image into patches for the vision tower. Return (patches, grid), where the grid is (number of rows, number
    of columns) of patches. The sides of the image must be multiples of `patch_size`."""
    patches = patchify(from_uint8(image), patch_size)
    return patches, (image.shape[0] // patch_size, image.shape[1] // patch_size)

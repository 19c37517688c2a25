"""The size of an image as a JPEG file. It needs no model, so it is useful to test RL: its best image is known."""

import io
from typing import Annotated

from PIL import Image as PILImage
from pydantic import Field

from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, require_pairs

Quality = Annotated[int, Field(ge=1, le=95)]


def jpeg_bytes(image: Image, quality: int = 95) -> int:
    """Return the size of an image (uint8, (H, W, 3)) as a JPEG file, in bytes. DDPO (arXiv 2305.13301) uses the same
    size, with quality 95 and in kilobytes. The size can differ between versions of the JPEG library."""
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.tell()


class JpegScorer:
    """Scores an image by the size of its JPEG file, in bytes. The prompt does not count. A negative `weight` in the
    recipe rewards images that can be compressed well, a positive one images with many details."""

    def __init__(self, name: str = "jpeg", quality: Quality = 95) -> None:
        self.name, self.last_error, self.quality = name, "", quality

    def check(self) -> None:
        """Do nothing, because the size needs nothing outside this process."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return [float(jpeg_bytes(image, self.quality)) for image in images]

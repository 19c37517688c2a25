"""A model in BAGEL's layout that draws the images of a data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from irg_rl.commands.generate import Ready, make_ready
from irg_rl.commands.suite_images import Size, fitted
from irg_rl.data.drawing import Draft, Redraw
from irg_rl.trajectory import Prompt
from rollouts.request import Request


class ModelPainter:
    """Draws first images, and improves images as reflections say. Every random number depends on the seed and the id of
    the prompt alone. So an image does not depend on the other images that are drawn with it."""

    def __init__(self, target: str, settings: Mapping[str, Any], seed: int) -> None:
        """Load a model. `target` is a model folder or a run. `settings` replace those of the run, or the defaults."""
        self.ready: Ready = make_ready(Path(target), settings, stop=False)
        self.seed = seed

    @property
    def _batch_size(self) -> int:
        return self.ready.recipe.evaluation.batch_size

    def first(self, prompts: Sequence[Prompt]) -> list[Draft]:
        """Let the model think and draw, and return the images with the think texts."""
        requests = [Request(prompt, 0, self.seed) for prompt in prompts]
        drawn = self.ready.sampler().sample(requests, 1, self._batch_size)
        return [Draft(one.images[0].pixels.numpy(), one.texts[0].text, one.texts[0].finished) for one in drawn]

    def improved(self, asked: Sequence[Redraw]) -> list[np.ndarray]:
        """Let the model draw improved images. It sees the first image, resized to sides that it can draw, and the
        reflection. The improved image has the same sides."""
        by_size: dict[Size, list[int]] = {}
        for place, one in enumerate(asked):
            by_size.setdefault(self._size(one.first), []).append(place)
        images: dict[int, np.ndarray] = {}
        for size, places in by_size.items():
            requests = [self._request(asked[place], size) for place in places]
            for place, drawn in zip(
                places, self.ready.sampler(size).sample(requests, 2, self._batch_size), strict=True
            ):
                images[place] = drawn.images[1].pixels.numpy()
        return [images[place] for place in range(len(asked))]

    def _size(self, image: np.ndarray) -> Size:
        height, width = image.shape[:2]
        return fitted(height, width, max(self.ready.recipe.sampling.image_size), self.ready.stride)

    def _request(self, one: Redraw, size: Size) -> Request:
        pixels = Image.fromarray(one.first)
        if one.first.shape[:2] != size:
            pixels = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        first = torch.from_numpy(np.array(pixels))
        return Request(one.prompt, 0, self.seed, think=one.think, first_image=first, reflections={1: one.reflection})

"""CLIP score: the cosine of an image and its prompt."""

from pathlib import Path

import torch

from irg_rl.trajectory import Prompt
from rewards import openclip
from rewards.base import Image, Score, require_pairs


class ClipScorer:
    """Cosine in [-1, 1] of normalised features, as in DiffusionNFT, Flow-Factory and MixGRPO; flow_grpo's fork
    multiplies it by 100/30. Works with the tiny trained model and with any open_clip checkpoint."""

    def __init__(
        self,
        path: str | Path,
        name: str = "clip",
        model: str = "",
        precision: str = "fp32",
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        self.name = name
        self.last_error = ""
        self.batch_size = batch_size
        self.tower = openclip.load(path, model, precision, device)
        self.preprocess = self.make_preprocess(self.tower.size)

    def make_preprocess(self, size: int) -> openclip.Preprocess:
        return openclip.clip_preprocess(size)

    def check(self) -> None:
        """Nothing to do: loading in the constructor was the check."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            pixels = torch.stack([self.preprocess(image) for image in images[part]])
            scores += self.tower.cosine(pixels, [prompt.text for prompt in prompts[part]]).tolist()
        return scores

"""CLIP score: the cosine similarity between the features of an image and the features of its prompt."""

import logging
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from irg_rl.trajectory import Prompt
from rewards import openclip
from rewards.base import Image, Score, require_pairs

_log = logging.getLogger(__name__)


class ClipScorer:
    """Scores images by CLIP: the cosine of the normalised features of image and prompt, in [-1, 1]. DiffusionNFT,
    Flow-Factory and MixGRPO use the same score. One modified copy of the project flow_grpo multiplies this cosine by
    100/30; this class does not. The model can be the tiny CLIP model that a run trains itself, or any open_clip
    checkpoint."""

    def __init__(
        self,
        path: str | Path,
        name: str = "clip",
        model: str = "",
        precision: openclip.Precision = "fp32",
        device: str = "cpu",
        batch_size: Annotated[int, Field(ge=1)] = 32,
    ) -> None:
        self.name = name
        self.last_error = ""
        self.batch_size = batch_size
        self.tower = openclip.load(path, model, precision, device)
        self.preprocess = self.make_preprocess(self.tower.size)
        self.cut = 0  # number of images whose text was too long: only its beginning was read

    def make_preprocess(self, size: int) -> openclip.Preprocess:
        return openclip.clip_preprocess(size)

    def check(self) -> None:
        """Do nothing, because the constructor has already loaded the model."""

    def models(self) -> list[torch.nn.Module]:
        return [self.tower.model]

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            pixels = torch.stack([self.preprocess(image) for image in images[part]])
            texts = [prompt.text for prompt in prompts[part]]
            self._count_cut(texts)
            scores += self.tower.cosine(pixels, texts).tolist()
        return scores

    def counts(self) -> dict[str, float]:
        return {"cut_texts": self.cut}

    def _count_cut(self, texts: list[str]) -> None:
        """Count the texts that are longer than the model can read. The model ignores the end of such a text, so two
        prompts that differ only there get the same score. The count is a metric, and the first such text is also
        reported in the log."""
        cut = [text for text in texts if self.tower.is_cut(text)]
        if cut and not self.cut:
            _log.warning("%s reads only the first %d tokens of %r", self.name, self.tower.context, cut[0][:80])
        self.cut += len(cut)

"""PickScore: a CLIP model of transformers that was trained on people's choices between two images of one prompt."""

import logging
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from PIL import Image as PILImage
from pydantic import Field
from torch import Tensor
from transformers import CLIPModel

from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, require_pairs
from rewards.released import DTYPES, WeightPrecision, load_released

_log = logging.getLogger(__name__)


class PickScorer:
    """Scores images by PickScore (arXiv 2305.01569): exp(logit_scale) * cosine of the features of image and prompt. The
    released model gives about 18 to 24. flow_grpo divides by 26; use `weight: 0.0385` for that.

    `path` is a folder as `save_pretrained` writes it: a CLIPModel with tokenizer and image processor, such as
    yuvalkirstain/PickScore_v1. The towers may run in bf16. Cosine and scale are fp32
    always. Nothing is downloaded.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "pickscore",
        precision: WeightPrecision = "fp32",
        device: str = "cpu",
        batch_size: Annotated[int, Field(ge=1)] = 32,
    ) -> None:
        self.name, self.last_error, self.batch_size = name, "", batch_size
        self.processor, self.model = load_released(path, CLIPModel, "fp32", device, "PickScore model")
        self.scale = float(self.model.logit_scale.detach().exp())  # read in fp32: in bf16 it would be 1 % off
        self.model.to(DTYPES[precision])
        self.context = self.model.config.text_config.max_position_embeddings
        self.cut = 0  # number of images whose text was too long: only its beginning was read

    def check(self) -> None:
        """Do nothing, because the constructor has already loaded the model."""

    def models(self) -> list[torch.nn.Module]:
        return [self.model]

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            texts = [prompt.text for prompt in prompts[part]]
            self._count_cut(texts)
            scores += self._scores(images[part], texts).tolist()
        return scores

    def counts(self) -> dict[str, float]:
        return {"cut_texts": self.cut}

    @torch.inference_mode()
    def _scores(self, images: list[Image], texts: list[str]) -> Float[Tensor, "N"]:
        inputs = self.processor(
            text=texts, images=[PILImage.fromarray(image) for image in images], padding="max_length", truncation=True,
            max_length=self.context, return_tensors="pt",
        ).to(self.model.device, self.model.dtype)  # fmt: skip
        found = self.model(**inputs)
        cosine = torch.cosine_similarity(found.image_embeds.float(), found.text_embeds.float(), dim=-1)
        return (self.scale * cosine).cpu()

    def _count_cut(self, texts: list[str]) -> None:
        """Count the texts that are longer than the model can read. The first one is also reported in the log."""
        tokenize = self.processor.tokenizer
        cut = [text for text in texts if len(tokenize(text, verbose=False)["input_ids"]) > self.context]
        if cut and not self.cut:
            _log.warning("%s reads only the first %d tokens of %r", self.name, self.context, cut[0][:80])
        self.cut += len(cut)

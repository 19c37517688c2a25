"""HPSv2 as a score. HPSv2 is a CLIP model that was fine-tuned on the choices of people between images of one prompt.

The released HPS_v2.1_compressed.pt can be loaded with open_clip (`model="ViT-H-14"`), because it has the same 686
parameter names as this model of open_clip. For small runs, `rewards.training.train_hps` trains a tiny HPS model. Scores
can be compared only if they are for the same prompt and from the same version of the model.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, pad, resize

from rewards.base import Image
from rewards.clip import ClipScorer
from rewards.openclip import OPENAI_MEAN, OPENAI_STD, Preprocess


def letterbox(image: Image, size: int) -> Float[Tensor, "3 S S"]:
    """Prepare an image as the evaluation of HPSv2 does, and return it. First, the longest side is resized to `size`.
    Then black bars make the image square. Last, the values are normalised with the mean and standard deviation of
    OpenAI's CLIP.

    Bytes become floats *before* the bicubic resize. So the resize can make values outside [0, 1], which are kept.
    open_clip's `resize_mode="longest"` resizes bytes instead, so its result differs from the result here by up to .05.
    The resize is antialiased, as in torchvision >= 0.17.
    """
    return letterbox_batch(image[None], size)[0]


def letterbox_batch(images: UInt8[np.ndarray, "B H W 3"], size: int) -> Float[Tensor, "B 3 S S"]:
    """Apply `letterbox` to a batch of images that all have one size."""
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255
    height, width = pixels.shape[2:]
    scale = size / max(height, width)
    if scale != 1:
        target = [round(height * scale), round(width * scale)]
        pixels = resize(pixels, target, InterpolationMode.BICUBIC, antialias=True)
    down, right = size - pixels.shape[2], size - pixels.shape[3]
    pixels = pad(pixels, [right // 2, down // 2, right - right // 2, down - down // 2])
    return normalize(pixels, list(OPENAI_MEAN), list(OPENAI_STD))


class HpsScorer(ClipScorer):
    """Scores images by HPSv2: the cosine of the features of image and prompt, in [-1, 1]. As in `hpsv2.img_score`, the
    cosine is not multiplied by the logit scale. HPS v2.1 gives good images a score of about .3."""

    def make_preprocess(self, size: int) -> Preprocess:
        return lambda image: letterbox(image, size)

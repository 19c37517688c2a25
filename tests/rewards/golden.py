"""Reference numbers of HPSv2, open_clip and the published CLIP scorers (`7_clip_hps`)."""

import numpy as np
from PIL import Image as PILImage
from safetensors.torch import load_file

from tests.golden import ROOT

FOLDER = ROOT / "rl"
IMAGES = {
    "a_40x56": "image_a_40x56.png",
    "b_portrait_300x212": "image_b_portrait_300x212.png",
    "c_square_256": "image_c_square_256.png",
}


def tensors():
    return load_file(FOLDER / "7_clip_hps.safetensors")


def image(name):
    return np.asarray(PILImage.open(FOLDER / IMAGES[name]).convert("RGB"))

"""Reference numbers of HPSv2, open_clip and the published CLIP scorers (`7_clip_hps`)."""

from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "golden" / "rl"
IMAGES = {
    "a_40x56": "image_a_40x56.png",
    "b_portrait_300x212": "image_b_portrait_300x212.png",
    "c_square_256": "image_c_square_256.png",
}


def tensors():
    path = FOLDER / "7_clip_hps.safetensors"
    if not path.is_file():
        raise AssertionError(f"the golden numbers are missing: {path} (put `shared` beside the checkout)")
    return load_file(path)


def image(name):
    return np.asarray(PILImage.open(FOLDER / IMAGES[name]).convert("RGB"))

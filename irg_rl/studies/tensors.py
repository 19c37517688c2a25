"""Convert images of the shapes world (the task with coloured shapes in a grid of nine cells) to tensors, which sampling
requests need."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def as_tensor(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
    """Copy the pixels of an image into a tensor and return it. A copy is needed because rendered images may be
    read-only."""
    return torch.from_numpy(pixels.copy())

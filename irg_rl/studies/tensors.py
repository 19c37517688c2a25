"""Conversion of images of the shapes world to tensors, as sampling requests need them."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def as_tensor(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
    """Copy the pixels into a tensor. A copy is needed because rendered images may be read-only."""
    return torch.from_numpy(pixels.copy())

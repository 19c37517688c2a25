"""Pictures of the world in the form that requests take."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def as_tensor(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
    """A copy: rendered pictures may be read-only."""
    return torch.from_numpy(pixels.copy())

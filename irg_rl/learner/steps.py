"""Measures how far weights have moved since training began. If they hardly move, RL cannot learn."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SAMPLED = 65_536
"""Largest number of elements of a tensor that are kept. They are spread evenly over the tensor."""


class WeightSteps:
    """Remembers up to 65,536 elements of each weight tensor at the beginning of training. Later, `largest` measures how
    far these elements have moved."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.first = {name: _sampled(tensor) for name, tensor in weights}

    def largest(self, weights: Mapping[str, Tensor]) -> float:
        """Return the largest |w - w0| / |w0| over all tensors. w0 are the remembered elements of a tensor, w are the
        same elements now, and |.| is the Euclidean norm. A tensor that was 0 at first, such as the matrix B of a new
        LoRA adapter, is left out."""
        found = [0.0]
        for name, first in self.first.items():
            size = float(first.norm())
            if size and name in weights:
                found.append(float((_sampled(weights[name]) - first).norm()) / size)
        return max(found)


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(-(-len(flat) // SAMPLED), 1)].to("cpu", torch.float32, copy=True)

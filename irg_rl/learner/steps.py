"""Measures how far weights have moved since training began. If they hardly move, RL cannot learn."""

from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLED = 65_536
"""Largest number of elements of a tensor that are kept. They are spread evenly over the tensor."""


class WeightSteps:
    """Remembers up to 65,536 elements of each weight tensor at the beginning of training. Later, `largest` measures how
    far these elements have moved."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.first = {name: _sampled(tensor) for name, tensor in weights}

    def of(self, name: str, tensor: Tensor) -> float:
        """Return |w - w0| / |w0| of one tensor, where w0 are the remembered elements, w are the same elements now, and
        |.| is the Euclidean norm. It is 0 if the tensor is unknown or was 0 at first, as a new LoRA adapter is."""
        first = self.first.get(name)
        if first is None or not (size := float(first.norm())):
            return 0.0
        return float((_sampled(tensor) - first).norm()) / size


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(-(-len(flat) // SAMPLED), 1)].to("cpu", torch.float32, copy=True)

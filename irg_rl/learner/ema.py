"""Exponential moving average (EMA) of the weights, in fp32."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class EMA:
    """Keeps an average of the weights. After each update: average <- decay * average + (1 - decay) * weights.

    With `warmup`, the decay of update n (counted from 1) is at most (1 + n) / (10 + n). Without this limit, the average
    of a short run would stay close to the first weights.

    The average is computed element by element. So each rank (process of the learner) gives and keeps only its own part
    of every weight tensor (`FullState.own`). It is kept in main memory. If the weights are on a GPU, the average of one
    tensor after the other is computed there. `FullState.whole` joins the parts of all ranks.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], decay: float, warmup: bool = True):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay} must be at least 0 and below 1")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.weights = host_copies(weights)

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Update the moving average with the weights that the newest training update has produced. `weights` must have
        the same names in every call."""
        self.updates += 1
        decay = self.decay_of(self.updates)
        for name, weight in weights:
            kept = self.weights[name]
            average = kept.to(weight.device, non_blocking=True).lerp_(weight.detach().float(), 1.0 - decay)
            if weight.is_cuda:
                kept.copy_(average, non_blocking=True)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the copies to main memory must be complete when it is read

    def decay_of(self, update: int) -> float:
        """Return the decay that is used in update number `update`, counted from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Restore a saved average. `weights` has this rank's part of every tensor (`FullState.cut`), and `updates` is
        the number of updates that made it. Raises ValueError if the names in `weights` differ from those of the current
        average."""
        if set(weights) != set(self.weights):
            raise ValueError(f"the saved average has other names: {sorted(set(weights) ^ set(self.weights))[:5]}")
        self.updates = updates
        for name, weight in weights.items():
            self.weights[name].copy_(weight)


def host_copies(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copy tensors to main memory, in fp32. Copies of tensors on a GPU are in pinned memory, which makes sending them
    fast. All copies are parts of one block, because PyTorch makes every pinned block as large as the next power of
    two."""
    found = {name: weight.detach() for name, weight in weights}
    pinned = any(weight.is_cuda for weight in found.values())
    sizes = [weight.numel() for weight in found.values()]
    block = torch.empty(sum(sizes), dtype=torch.float32, pin_memory=pinned)
    copies = {name: part.view(found[name].shape) for name, part in zip(found, block.split(sizes))}
    for name, weight in found.items():
        copies[name].copy_(weight)
    return copies

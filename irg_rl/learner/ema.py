"""Exponential moving average (EMA) of the weights, in fp32."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class EMA:
    """Keeps an average of the weights. After each update: average <- decay * average + (1 - decay) * weights.

    With `warmup`, the decay of update n (counted from 1) is at most (1 + n) / (10 + n). Without this limit, the average
    of a short run would stay close to the first weights. The average is kept on the CPU. With `keep=False`, this rank
    (process of the learner) stores no average. It still reads the weights in each update, because reading may be a
    collective call, which all ranks must make.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], decay: float, warmup: bool = True, keep: bool = True):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay} must be at least 0 and below 1")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.keep = keep
        self.weights: dict[str, Tensor] = {n: w.detach().float().cpu().clone() for n, w in weights if keep}

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Update the moving average with the weights that the newest training update has produced. `weights` must have
        the same names in every call."""
        self.updates += 1
        decay = self.decay_of(self.updates)
        for name, weight in weights:
            if self.keep:
                self.weights[name].lerp_(weight.detach().float().cpu(), 1.0 - decay)

    def decay_of(self, update: int) -> float:
        """Return the decay that is used in update number `update`, counted from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Restore a saved average. `weights` is the average, and `updates` is the number of updates that made it.
        Raises ValueError if `weights` and the current average have different names."""
        self.updates = updates
        if not self.keep:
            return
        if set(weights) != set(self.weights):
            raise ValueError(f"the saved average has other names: {sorted(set(weights) ^ set(self.weights))[:5]}")
        self.weights = {name: weight.float().clone() for name, weight in weights.items()}

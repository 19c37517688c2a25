"""Exponential moving average (EMA) of the weights, in fp32."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class EMA:
    """Keeps an average of the weights. After each update: average <- decay * average + (1 - decay) * weights.

    With `warmup`, the decay of update n (counted from 1) is at most (1 + n) / (10 + n). Without this limit, the average
    of a short run would stay close to the first weights.

    The average is computed element by element. So each rank (process of the learner) gives and keeps only its own part
    of every weight tensor (`FullState.own`), on the device of these parts. `FullState.whole` joins the parts.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], decay: float, warmup: bool = True):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay} must be at least 0 and below 1")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.weights: dict[str, Tensor] = {name: w.detach().to(torch.float32, copy=True) for name, w in weights}

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Update the moving average with the weights that the newest training update has produced. `weights` must have
        the same names in every call."""
        self.updates += 1
        decay = self.decay_of(self.updates)
        for name, weight in weights:
            self.weights[name].lerp_(weight.detach().float(), 1.0 - decay)

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
        self.weights = {name: weight.to(torch.float32, copy=True) for name, weight in weights.items()}

"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer.

Both are torch's own. Muon replaces the momentum of a matrix by its nearest orthogonal matrix (Jordan et al. 2024,
"Muon: an optimizer for hidden layers"). It needs whole matrices, so ZeRO stage 0.
"""

from collections.abc import Callable
from typing import Any

import torch

MOMENTUM = 0.95


class MuonAdamW(torch.optim.Optimizer):
    """Uses torch.optim.Muon for the groups marked `muon` and torch.optim.AdamW for the others.

    Both share their groups and their state with this optimizer. So learning rates are set and moments are read here:
    `momentum_buffer` of a matrix, `exp_avg` and `exp_avg_sq` of the rest.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        matrices = [group for group in groups if group["muon"]]
        others = [group for group in groups if not group["muon"]]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.Muon(matrices, momentum=MOMENTUM)]
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=betas, eps=eps))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure")
        for part in self._parts:
            part.step()

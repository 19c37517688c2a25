"""One optimizer that uses Muon for the matrices of the layers and AdamW for all other parameters.

Muon and AdamW are the implementations of torch. Muon replaces the momentum of a matrix by the nearest orthogonal matrix
(Jordan et al. 2024, "Muon: an optimizer for hidden layers"). It needs whole matrices, so it works only with ZeRO stage
0.
"""

from collections.abc import Callable
from typing import Any

import torch

MOMENTUM = 0.95


class MuonAdamW(torch.optim.Optimizer):
    """An optimizer that joins two optimizers. torch.optim.Muon trains the parameter groups with the entry `muon` =
    True. torch.optim.AdamW trains the other groups.

    This object contains these two optimizers and has the same parameter groups and state as they have. So the caller
    sets learning rates and reads optimizer moments on this object. For a parameter that Muon trains, the state has the
    moment `momentum_buffer`. For other parameters it has `exp_avg` and `exp_avg_sq`.
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

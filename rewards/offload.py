"""Moves the models of scorers to main memory while nobody needs scores, so that a learner on the same GPU has room."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from rewards.base import Scorer


@runtime_checkable
class WithModels(Protocol):
    """A scorer whose models can be moved between devices."""

    def models(self) -> list[nn.Module]:
        """Return the models. The scorer runs each one on the device on which its parameters are."""
        ...


class Offload:
    """Knows the models of scorers and the device of each. Scorers without `models` stay where they are."""

    def __init__(self, scorers: Iterable[Scorer]) -> None:
        models = [model for scorer in scorers if isinstance(scorer, WithModels) for model in scorer.models()]
        self._homes = [(model, next(model.parameters()).device) for model in models]
        self.is_away = False

    def rest(self) -> None:
        """Move the models to main memory, and give their GPU memory back, so that another process can use it."""
        for model, _ in self._homes:
            model.to("cpu")
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self.is_away = True

    def wake(self) -> None:
        """Move the models back to their devices, if they are away. The weights are the same bit by bit."""
        if self.is_away:
            for model, home in self._homes:
                model.to(home)
        self.is_away = False

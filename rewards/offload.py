"""Moves the models of scorers to main memory while nobody needs scores, so that a learner on the same GPU has room."""

from collections.abc import Iterable
from itertools import islice
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
    """Moves the models of scorers between their devices and main memory. Scorers without `models` stay where they are.
    """

    def __init__(self, scorers: Iterable[Scorer]) -> None:
        self.scorers = list(scorers)
        self.away: list[tuple[nn.Module, torch.device]] = []  # the models in main memory, and the device of each

    def rest(self) -> None:
        """Move the models to main memory, and give their GPU memory back, so that another process can use it."""
        if self.away:
            return
        models = [model for scorer in self.scorers if isinstance(scorer, WithModels) for model in scorer.models()]
        self.away = [(model, weight.device) for model in models for weight in islice(model.parameters(), 1)]
        for model, _ in self.away:
            model.to("cpu")
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Move the models back to their devices, if they are away. The weights are the same bit by bit."""
        for model, home in self.away:
            model.to(home)
        self.away = []

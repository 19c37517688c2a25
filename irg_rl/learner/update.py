"""The settings, the input and the result of one optimizer step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from irg_rl.errors import UserError
from irg_rl.learner.parts import OptimizerSettings

REDUCE_BUCKET = 50_000_000
"""How many gradient values DeepSpeed reduces (averages) over ranks in one collective call."""


class NonFiniteError(UserError, RuntimeError):
    """Raised if too many updates in a row were skipped because a loss or gradient was infinite or NaN."""


@dataclass(frozen=True)
class EngineSettings:
    optimizer: OptimizerSettings
    zero_stage: int = 2
    precision: str = "fp32"  # "fp32", or "bf16" with fp32 master weights
    grad_clip: float = 1.0  # maximum global gradient norm
    max_bad_steps: int | None = 5  # the run stops after this number of skipped updates in a row; None: never
    activation_checkpointing: bool = False  # compute activations again in the backward pass instead of storing them

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage}: choose 0, 1, 2 or 3")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: choose fp32 or bf16")
        if self.precision == "bf16" and self.zero_stage < 2:
            raise ValueError(
                f"precision bf16 with zero_stage {self.zero_stage}: DeepSpeed's optimizer for it cannot sum several "
                "backwards in fp32; set zero_stage to 2 or 3"
            )
        if self.optimizer.muon_rate is not None and self.zero_stage:
            raise ValueError(f"Muon needs whole matrices, which zero_stage {self.zero_stage} cuts up: set zero_stage 0")
        if self.grad_clip <= 0:
            raise ValueError(f"grad_clip {self.grad_clip} must be above 0")


@dataclass
class Loss:
    """The loss of one pack (the input of one forward pass). `terms` has the terms of the loss by name, and their sum is
    the loss. Each term is already divided by a count of tokens or denoising steps over all ranks (its global
    denominator). `sums` and `maxima` have metrics."""

    terms: dict[str, Tensor]  # scalars; their sum is the loss
    sums: dict[str, float] = field(default_factory=dict)  # metrics that are summed over packs and ranks
    maxima: dict[str, float] = field(default_factory=dict)  # metrics; the maximum over packs and ranks is reported

    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


@dataclass(frozen=True)
class StepResult:
    """The result of one optimizer step: whether it was applied, the loss terms, the metrics, the gradient norms and the
    learning rates. All ranks get the same result."""

    step: int  # number of updates applied so far
    applied: bool  # False if the update was skipped because a loss or gradient was not finite
    terms: dict[str, float]
    sums: dict[str, float]
    maxima: dict[str, float]
    grad_norms: dict[str, float]  # norms before clipping: one for each part of the model, and "total"
    learning_rates: dict[str, float]

    @property
    def loss(self) -> float:
        return sum(self.terms.values())


LossFn = Callable[[Any, int, dict[str, float]], Loss]
"""Type of a loss function. Its arguments are the model output, the index of the pack, and the global denominators
(counts over all ranks). It returns the loss of the pack."""

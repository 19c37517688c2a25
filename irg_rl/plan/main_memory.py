"""Copies of weights that a run keeps for a time in the main memory of the machine, in fp32. Only the first rank of a
learner makes them.

| copy | when |
|---|---|
| published weights | publication; they then go to Ray's object store (rollouts/traffic.py) |
| weights, moments, average and old policy of a checkpoint | checkpoint |

A copy has only the weights that are trained (with LoRA the adapters), and the position tables. Without LoRA all weights
are published. The average, the old policy and the first weights themselves are divided over the ranks
(`training_memory.kept_copies`).
"""

from dataclasses import dataclass

from irg_rl.algorithms.base import Algorithm
from irg_rl.plan.training_memory import FP32, Moment, Parameters


@dataclass(frozen=True)
class Copy:
    """A copy in main memory. `bytes` is its size."""

    name: str
    bytes: int
    moment: Moment


def changing_bytes(parameters: Parameters) -> int:
    """Return the bytes of a copy of everything that training changes, and of the position tables, in fp32."""
    return FP32 * (parameters.trained_total + parameters.tables)


def sft_copies(parameters: Parameters) -> list[Copy]:
    return [_checkpoint(parameters, FP32 * parameters.trained_total)]


def rl_copies(parameters: Parameters, algorithm: Algorithm, averaged: bool, published: int) -> list[Copy]:
    """Return the copies that the learner of RL makes. `averaged` says whether it keeps an average. `published` is the
    size of the published weights in bytes."""
    saved = (averaged + (algorithm.old_schedule is not None)) * changing_bytes(parameters)
    return [Copy("published weights", published, Moment.PUBLISH), _checkpoint(parameters, saved)]


def machine_peak(copies: list[Copy]) -> int:
    """Return the largest number of bytes that the copies need together at any time."""
    return max(sum(copy.bytes for copy in copies if copy.moment is moment) for moment in Moment)


def _checkpoint(parameters: Parameters, more: int) -> Copy:
    return Copy("checkpoint", changing_bytes(parameters) + parameters.moment_bytes + more, Moment.SAVE)

"""Copies of weights that the training processes keep in the main memory of the machine, in fp32. On a GPU machine they
are beside the memory of the cards. On a machine without GPUs they are a part of the process.

| copy | kept by | when |
|---|---|---|
| average of the weights (SFT, `rl.ema_decay`) | divided over the ranks | always |
| old policy (NFT, AWM) | divided over the ranks | always |
| first weights (DPO) | divided over the ranks | always |
| published weights | rank 0 | publication; they then go to Ray's object store (rollouts/traffic.py) |
| weights, moments, average and old policy of a checkpoint | rank 0 | checkpoint |

A copy has only the weights that are trained (with LoRA the adapters), and the position tables. Without LoRA all weights
are published. For a forward pass with the old or the first weights, each rank also has them on its card, in the number
type of the model. This does not raise the peak, because at that time there are no gradients, which have the same size.
"""

from dataclasses import dataclass

from irg_rl.algorithms.base import Algorithm
from irg_rl.plan.training_memory import FP32, Component, Moment, Parameters


@dataclass(frozen=True)
class Copy:
    """A copy in main memory. `bytes` is its size in one process, and `ranks` the number of processes that have it."""

    name: str
    bytes: int
    ranks: int = 1
    moment: Moment = Moment.ALWAYS


def changing_bytes(parameters: Parameters) -> int:
    """Return the bytes of a copy of everything that training changes, and of the position tables, in fp32."""
    return FP32 * (parameters.trained_total + parameters.tables)


def sft_copies(parameters: Parameters, ranks: int) -> list[Copy]:
    size = FP32 * parameters.trained_total
    return [_divided("average", size, ranks), _checkpoint(parameters, size)]


def rl_copies(parameters: Parameters, algorithm: Algorithm, averaged: bool, published: int, ranks: int) -> list[Copy]:
    """Return the copies that the learner of RL keeps. `averaged` says whether it keeps an average. `published` is the
    size of the published weights in bytes, and `ranks` the number of learner ranks."""
    size = changing_bytes(parameters)
    found = [_divided("average", size, ranks)] if averaged else []
    if algorithm.old_schedule is not None:
        found.append(_divided("old policy", size, ranks))
    saved = _checkpoint(parameters, len(found) * size)
    if algorithm.keeps_first_weights:
        found.append(_divided("first weights", size, ranks))
    return [*found, Copy("published weights", published, moment=Moment.PUBLISH), saved]


def machine_peak(copies: list[Copy]) -> int:
    """Return the largest number of bytes that all copies need together at any time, over all processes."""
    held = {moment: sum(copy.bytes * copy.ranks for copy in copies if copy.moment is moment) for moment in Moment}
    return held.pop(Moment.ALWAYS) + max(held.values())


def in_process(copies: list[Copy]) -> list[Component]:
    """Return what the fullest process holds of the copies all the time, for a process without a card."""
    return [Component(copy.name, copy.bytes) for copy in copies if copy.moment is Moment.ALWAYS]


def _divided(name: str, size: int, ranks: int) -> Copy:
    return Copy(name, -(-size // ranks), ranks)


def _checkpoint(parameters: Parameters, more: int) -> Copy:
    return Copy("checkpoint", changing_bytes(parameters) + parameters.moment_bytes + more, moment=Moment.SAVE)

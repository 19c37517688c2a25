"""Copies of weights that a training process keeps in the main memory of the machine, in fp32. On a GPU machine they are
beside the memory of the cards. On a machine without GPUs they are a part of the process.

| copy | kept by | when |
|---|---|---|
| average of the weights (SFT, `rl.ema_decay`) | rank 0 | always |
| old policy (NFT, AWM) | every rank | always |
| first weights (DPO) | every rank | always |
| published weights | every rank | publication |
| weights and moments of a checkpoint | rank 0 | checkpoint |

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


def sft_copies(parameters: Parameters) -> list[Copy]:
    return [Copy("average", changing_bytes(parameters)), _checkpoint(parameters)]


def rl_copies(parameters: Parameters, algorithm: Algorithm, averaged: bool, published: int, ranks: int) -> list[Copy]:
    """Return the copies that the learner of RL keeps. `averaged` says whether it keeps an average. `published` is the
    size of the published weights in bytes, and `ranks` the number of learner ranks."""
    size = changing_bytes(parameters)
    found = [Copy("average", size)] if averaged else []
    if algorithm.old_schedule is not None:
        found.append(Copy("old policy", size, ranks))
    if algorithm.keeps_first_weights:
        found.append(Copy("first weights", size, ranks))
    return [*found, Copy("published weights", published, ranks, Moment.PUBLISH), _checkpoint(parameters)]


def machine_peak(copies: list[Copy]) -> int:
    """Return the largest number of bytes that all copies need together at any time, over all processes."""
    held = {moment: sum(copy.bytes * copy.ranks for copy in copies if copy.moment is moment) for moment in Moment}
    return held.pop(Moment.ALWAYS) + max(held.values())


def in_process(copies: list[Copy]) -> list[Component]:
    """Return what the fullest process holds of the copies all the time, for a process without a card."""
    return [Component(copy.name, copy.bytes) for copy in copies if copy.moment is Moment.ALWAYS]


def _checkpoint(parameters: Parameters) -> Copy:
    return Copy("checkpoint", changing_bytes(parameters) + parameters.moment_bytes, moment=Moment.SAVE)

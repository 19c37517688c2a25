"""Copies of weights that a training process keeps in the main memory of the machine, in fp32. On a machine with GPUs,
this memory is needed in addition to the GPU memory. On a machine without GPUs, it is a part of the memory of the
process.

| copy | kept by | needed |
|---|---|---|
| average of the weights (SFT, `rl.ema_decay`) | rank 0 | always |
| weights of the old policy (algorithms NFT and AWM) | every rank | always |
| weights at the start of RL (algorithm DPO) | every rank | always |
| published weights | every rank | while weights are sent to the samplers |
| weights and optimizer moments of a checkpoint | rank 0 | while a checkpoint is written |

A copy has only the trained weights (with LoRA the adapters) and the position tables. The published weights are an
exception: without LoRA this copy has all weights. A forward pass with the old policy, or with the weights at the start
of RL, needs these weights on the GPU of each rank, too. There they have the number type of the model. This does not
raise the peak: gradients have the same size, and at that time there are no gradients.
"""

from dataclasses import dataclass

from irg_rl.algorithms.base import Algorithm
from irg_rl.plan.training_memory import FP32, Component, Moment, Parameters


@dataclass(frozen=True)
class Copy:
    """A copy of weights in main memory. `bytes` is its size in one process, `ranks` is the number of processes that
    have it, and `moment` says when it is needed."""

    name: str
    bytes: int
    ranks: int = 1
    moment: Moment = Moment.ALWAYS


def changing_bytes(parameters: Parameters) -> int:
    """Return the size in bytes of one fp32 copy of all trained weights and of the position tables."""
    return FP32 * (parameters.trained_total + parameters.tables)


def sft_copies(parameters: Parameters) -> list[Copy]:
    return [Copy("average", changing_bytes(parameters)), _checkpoint(parameters)]


def rl_copies(parameters: Parameters, algorithm: Algorithm, averaged: bool, published: int, ranks: int) -> list[Copy]:
    """Return the copies of weights that the RL learner keeps in main memory. `averaged` says whether it keeps an
    average of the weights. `published` is the size of the published weights in bytes, and `ranks` is the number of
    learner ranks."""
    size = changing_bytes(parameters)
    found = [Copy("average", size)] if averaged else []
    if algorithm.old_schedule is not None:
        found.append(Copy("old policy", size, ranks))
    if algorithm.keeps_first_weights:
        found.append(Copy("first weights", size, ranks))
    return [*found, Copy("published weights", published, ranks, Moment.PUBLISH), _checkpoint(parameters)]


def machine_peak(copies: list[Copy]) -> int:
    """Return the peak memory in bytes that all these copies of weights need together, summed over all processes."""
    held = {moment: sum(copy.bytes * copy.ranks for copy in copies if copy.moment is moment) for moment in Moment}
    return held.pop(Moment.ALWAYS) + max(held.values())


def in_process(copies: list[Copy]) -> list[Component]:
    """Return the copies of weights that are always needed, as components of the memory of one process without a GPU.
    The result is for rank 0, the process that has all of these copies."""
    return [Component(copy.name, copy.bytes) for copy in copies if copy.moment is Moment.ALWAYS]


def _checkpoint(parameters: Parameters) -> Copy:
    return Copy("checkpoint", changing_bytes(parameters) + parameters.moment_bytes, moment=Moment.SAVE)

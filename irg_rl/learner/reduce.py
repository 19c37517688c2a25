"""Compute sums, maxima and logical conjunctions over all ranks (processes of the learner)."""

from collections.abc import Mapping

import torch
import torch.distributed as dist


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_ranks(local: Mapping[str, float]) -> dict[str, float]:
    """Return, for each name, the sum of its values over all ranks (processes of the learner). `local` has the values of
    this rank. A name that is missing on a rank counts as 0 there."""
    return _merge(local, lambda values: sum(values))


def max_over_ranks(local: Mapping[str, float]) -> dict[str, float]:
    """Return, for each name, the largest of its values over all ranks (processes of the learner) that have the name.
    `local` has the values of this rank."""
    return _merge(local, max)


def all_true(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Return whether `flag` is true on every rank (process of the learner)."""
    if world_size() == 1:
        return flag
    agreed = torch.tensor(int(flag), device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


def reduce_sum(local: torch.Tensor) -> torch.Tensor:
    """Sum the tensor over all ranks (processes of the learner), in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(local)
    return local


def gather_objects(local: object) -> list:
    """Return a list with the object `local` of every rank (process of the learner), in the order of the ranks."""
    if world_size() == 1:
        return [local]
    found: list = [None] * world_size()
    dist.all_gather_object(found, local)
    return found


def _merge(local: Mapping[str, float], combine) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for part in gather_objects(dict(local)):
        for name, value in part.items():
            columns.setdefault(name, []).append(value)
    return {name: combine(columns[name]) for name in sorted(columns)}

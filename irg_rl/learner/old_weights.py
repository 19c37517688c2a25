"""The old policy: a second set of weights. The samplers draw samples with these weights.

These weights are a moving average of the trained weights over the updates. They cannot be computed from the current
trained weights alone, so a checkpoint must contain them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from irg_rl.learner.ema import EMA
from irg_rl.learner.weights import own_partition, partition_of
from irg_rl.sections import Decay, Section, Weight


class OldPolicySchedule(Section):
    """Says how fast the old policy follows the trained weights. The old policy is a second set of weights, which the
    samplers use. After each update: old = decay * old + (1 - decay) * trained.

    The decay after update n (counted from 0) is 0 while n < flat. From n = flat on it is min(slope * (n - flat), most),
    so `most` is the largest decay. The two schedules of DiffusionNFT are (flat, slope, most) = (0, .001, .5) and (75,
    .0075, .999).
    """

    flat: Annotated[int, Field(ge=0)] = 0
    slope: Weight = 1e-3
    most: Decay = 0.5

    def decay(self, update: int) -> float:
        return 0.0 if update < self.flat else min(self.slope * (update - self.flat), self.most)


class OldWeights(EMA):
    """The weights of the old policy, in fp32 on the CPU of every rank. The samplers draw samples with these weights.
    They are updated once after each training update, as `schedule` says. `updates` counts how often this was done."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]], schedule: OldPolicySchedule):
        super().__init__(weights, schedule.most, warmup=False)
        self.schedule = schedule

    def decay_of(self, update: int) -> float:
        return self.schedule.decay(update - 1)


@contextmanager
def holding(
    module: nn.Module, weights: Mapping[str, Tensor], release: Callable[[], None] | None = None
) -> Iterator[None]:
    """Inside the `with` block, the trainable parameters of the module have the values `weights`. Afterwards they have
    their own values again, bit for bit.

    Use it only between optimizer steps and for forward passes without gradients. `release` is needed only under ZeRO 3,
    where each rank stores a part of every parameter. It is a function that frees the full parameters that were gathered
    from these parts. If they were not freed, they would keep the values from before the change.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert parameters.keys() <= weights.keys(), sorted(parameters.keys() - weights.keys())[:5]
    if release is None:
        own = _point_elsewhere(parameters, weights)
    else:
        release()
        partitions = {name: own_partition(p, weights[name]) for name, p in parameters.items()}
        own = _overwrite_partitions(parameters, partitions)
    try:
        yield
    finally:
        if release is None:
            _point_elsewhere(parameters, own)
        else:
            release()
            _overwrite_partitions(parameters, own)


def _point_elsewhere(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the parameters point to other tensors. Return the tensors that they pointed to before. DeepSpeed's flat
    buffers, where these earlier tensors are stored, do not change.
    """
    before = {}
    for name, parameter in parameters.items():
        before[name] = parameter.data
        parameter.data = values[name].to(parameter.device, parameter.dtype)
    return before


def _overwrite_partitions(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    before = {}
    for name, parameter in parameters.items():
        partition = partition_of(parameter)
        before[name] = partition.data.clone()
        partition.data.copy_(values[name])
    return before

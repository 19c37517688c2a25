"""An old policy, as a copy of the weights. It follows the trained weights by its own schedule, so it must be saved in
the checkpoint.
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
    """The old policy is a copy of the trained weights. It draws the samples, and after each update it follows them:
    old = decay * old + (1 - decay) * new. The decay after update n (from 0) is 0 while n < flat, then
    min(slope * (n - flat), most). DiffusionNFT's two schedules are 0, .001, .5 and 75, .0075, .999."""

    flat: Annotated[int, Field(ge=0)] = 0
    slope: Weight = 1e-3
    most: Decay = 0.5

    def decay(self, update: int) -> float:
        return 0.0 if update < self.flat else min(self.slope * (update - self.flat), self.most)


class OldWeights(EMA):
    """The copy, in fp32 on the CPU of every rank. `updates` counts the updates that it has followed."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]], schedule: OldPolicySchedule):
        super().__init__(weights, schedule.most, warmup=False)
        self.schedule = schedule

    def decay_of(self, update: int) -> float:
        return self.schedule.decay(update - 1)


@contextmanager
def holding(
    module: nn.Module, weights: Mapping[str, Tensor], release: Callable[[], None] | None = None
) -> Iterator[None]:
    """Within this context the module uses other values of its trainable parameters. Afterwards it has its own values
    again, bit for bit.

    Only for forwards without gradients, between optimizer steps. `release`, only for ZeRO 3: drops gathered parameters,
    which would otherwise keep the old values.
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
    """Point the parameters to other tensors and return the old ones. DeepSpeed's flat buffers, of which they are views,
    do not change."""
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

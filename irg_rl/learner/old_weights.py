"""An old policy as weights: a copy that follows the trained ones by a schedule of its own. It is no snapshot, so it
must be in the checkpoint.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from irg_rl.learner.ema import EMA
from irg_rl.learner.weights import own_partition
from irg_rl.sections import Decay, Section, Weight


class OldPolicySchedule(Section):
    """The old policy is a copy of the trained weights that draws the samples, texts too, and follows after each update:
    old = decay * old + (1 - decay) * new. The decay after update n (from 0) is 0 while n < flat, then
    min(slope * (n - flat), most). DiffusionNFT's two schedules are 0, .001, .5 and 75, .0075, .999."""

    flat: Annotated[int, Field(ge=0)] = 0
    slope: Weight = 1e-3
    most: Decay = 0.5

    def decay(self, update: int) -> float:
        return 0.0 if update < self.flat else min(self.slope * (update - self.flat), self.most)


class OldWeights(EMA):
    """fp32, on the CPU of every rank. `updates`: those that the copy has followed."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]], schedule: OldPolicySchedule):
        super().__init__(weights, schedule.most, warmup=False)
        self.schedule = schedule

    def decay_of(self, update: int) -> float:
        return self.schedule.decay(update - 1)


@contextmanager
def holding(
    module: nn.Module, weights: Mapping[str, Tensor], release: Callable[[], None] | None = None
) -> Iterator[None]:
    """Inside, the module computes with other values of its trainable parameters; then it has its own again, to the bit.

    For forwards without gradients, between optimizer steps. `release`: of ZeRO 3, where parameters are gathered from
    partitions and some stay gathered; it gives those up.
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
    """Returns what the parameters pointed to. DeepSpeed's flat buffers, of which they are views, are not touched."""
    before = {}
    for name, parameter in parameters.items():
        before[name] = parameter.data
        parameter.data = values[name].to(parameter.device, parameter.dtype)
    return before


def _overwrite_partitions(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    before = {}
    for name, parameter in parameters.items():
        before[name] = parameter.ds_tensor.data.clone()
        parameter.ds_tensor.data.copy_(values[name])
    return before

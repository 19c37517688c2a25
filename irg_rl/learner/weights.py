"""Read and write the full fp32 weights and optimizer moments of an engine, by parameter name, for every ZeRO stage.

The tensors that are read do not depend on the world size or the ZeRO stage. So a run may be resumed with another world
size and another ZeRO stage. Every call is collective: all ranks must make it, in the same order.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn


class FullState:
    """Reads and writes the training state (weights and optimizer moments) of a DeepSpeed engine. Tensors are copied
    only when they are read."""

    MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
    """Names of the moments of AdamW and of Muon. A parameter has only the moments of the optimizer that trains it."""

    def __init__(self, engine: Any, zero_stage: int):
        self._engine = engine
        self._stage = zero_stage
        if zero_stage in (1, 2):
            self._link_moments()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) for every entry of the model's state dict, on the CPU. Parameters are yielded as fp32
        master weights."""
        return self._read(self._entries())

    def changing(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) as `weights` does, but without the frozen parameters. Frozen parameters always have the
        values of the model folder from which training started."""
        return self._read(self._changing())

    def frozen_digest(self) -> str | None:
        """Return a digest (hash) of the names and bits of the frozen parameters, or None if no parameter is frozen.

        `changing` does not yield the frozen parameters. So the weights that it yields may be combined only with frozen
        parameters that have the same digest.
        """
        frozen = [(name, tensor) for name, tensor in self._entries() if _is_frozen(tensor)]
        total = hashlib.sha256()
        for name, parameter in frozen:
            total.update(f"{name} {self._bits(parameter)}\n".encode())
        return total.hexdigest() if frozen else None

    def moment(self, key: str) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name, moment) for every trainable parameter that has the optimizer moment `key`, one of
        `MOMENTS`."""
        for name, parameter in self._with(key):
            if self._stage == 0:
                full = self._engine.optimizer.state[parameter][key]
            else:
                full = _found(safe_get_full_optimizer_state(parameter, key))
            yield name, full.detach().to("cpu", copy=True).contiguous()

    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Load a saved training state into the engine. `weights` has what `changing` yielded. `moments` has, for each
        key in `MOMENTS`, what `moment` yielded. `steps` is the step count that Adam uses for its bias correction.
        Raises ValueError if a tensor is missing, unknown or has another shape. The message names the tensor.
        """
        entries = dict(self._changing())
        self._check("weights", weights, set(entries))
        for key in self.MOMENTS:
            self._check(key, moments.get(key, {}), {name for name, _ in self._with(key)})
        for name, tensor in entries.items():
            if isinstance(tensor, nn.Parameter):
                self._set_weight(name, tensor, weights[name])
            else:
                tensor.copy_(weights[name])
        for key in self.MOMENTS:
            for name, parameter in self._with(key):
                self._set_moment(parameter, moments[key][name], key)
        self.set_steps(steps)

    def set_steps(self, steps: int) -> None:
        """Set the step count that Adam uses for its bias correction."""
        base = self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer
        for state in base.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(steps))

    def _link_moments(self) -> None:
        """Link the parameters to the optimizer moments again, so that DeepSpeed's functions find the moments of all
        parameters. DeepSpeed 0.19 links them after the first *group* of parameters has been updated, when the moments
        of the other groups do not exist yet.
        """
        optimizer = self._engine.optimizer
        for parameters, partition in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups):
            lazy_init_hp_params_optimizer_state(parameters, partition, optimizer.state)

    def _entries(self) -> Iterable[tuple[str, Tensor]]:
        return self._engine.module.state_dict(keep_vars=True).items()

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in self._entries() if not _is_frozen(tensor))

    def _read(self, entries: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in entries:
            full = self._weight(tensor) if isinstance(tensor, nn.Parameter) else tensor
            yield name, full.detach().to("cpu", copy=True).contiguous()

    def _bits(self, parameter: nn.Parameter) -> int:
        """Return a checksum of a frozen parameter: the bits of each value are read as an integer, and the integers are
        added. The sum is the same in any order and on any device.
        """
        with GatheredParameters([parameter], enabled=self._stage == 3):
            integers = parameter.detach().view(torch.int16 if parameter.element_size() == 2 else torch.int32)
            return int(integers.sum(dtype=torch.int64))

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self._engine.module.named_parameters() if p.requires_grad)

    def _with(self, key: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trainable parameters that have the moment `key`, with their names."""
        if self._stage == 0:
            state = self._engine.optimizer.state
            return ((n, p) for n, p in self._trainable() if key in state[p])
        return iter(()) if key == "momentum_buffer" else self._trainable()

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        if self._stage == 3:
            if parameter.requires_grad:
                return _found(safe_get_full_fp32_param(parameter))
            with GatheredParameters([parameter]):
                return parameter.detach().float().clone()
        if parameter.dtype == torch.float32 or not parameter.requires_grad:
            return parameter.float()
        return _found(safe_get_full_fp32_param(parameter))

    def _set_weight(self, name: str, parameter: nn.Parameter, value: Tensor) -> None:
        value = value.to(parameter.device, torch.float32)
        shape = vars(parameter)["ds_shape"] if self._stage == 3 else parameter.shape
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)} in the checkpoint and {tuple(shape)} in the model")
        if self._stage == 3:
            part = own_partition(parameter, value)
            partition_of(parameter).data.copy_(part)
            safe_set_local_fp32_param(parameter, part)
            return
        parameter.data.copy_(value)
        safe_set_full_fp32_param(parameter, value)

    def _set_moment(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        value = value.to(parameter.device, torch.float32)
        if self._stage == 0:
            self._engine.optimizer.state[parameter][key].copy_(value)
        elif self._stage == 3:
            safe_set_local_optimizer_state(parameter, own_partition(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    @staticmethod
    def _check(what: str, found: Mapping[str, Tensor], wanted: set[str]) -> None:
        missing, unknown = sorted(wanted - set(found)), sorted(set(found) - wanted)
        if missing or unknown:
            raise ValueError(f"{what} do not fit the model: missing {missing[:5]}, unknown {unknown[:5]}")


def _is_frozen(tensor: Tensor) -> TypeGuard[nn.Parameter]:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _found(tensor: Tensor | None) -> Tensor:
    """Check by an assertion that `tensor` is not None, and return it. DeepSpeed returns None instead of a state tensor
    only for parameters that are not trained.
    """
    assert tensor is not None
    return tensor


def partition_of(parameter: nn.Parameter) -> Tensor:
    """Return the part of a parameter that this rank stores under ZeRO 3. DeepSpeed stores it as an attribute of the
    parameter.
    """
    return vars(parameter)["ds_tensor"]


def own_partition(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return the part of the full tensor `value` that this rank stores under ZeRO 3, as a flat tensor padded with
    zeros. DeepSpeed's own setter for full tensors is not used: it fails if the tensor size is not a multiple of the
    world size."""
    size = partition_of(parameter).numel()
    start = size * torch.distributed.get_rank(vars(parameter)["ds_process_group"])
    part = torch.zeros(size, dtype=value.dtype, device=value.device)
    own = value.flatten()[start : start + size]
    part[: own.numel()] = own
    return part

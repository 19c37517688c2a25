"""Checking a state dict before it is loaded."""

from collections.abc import Mapping

import torch
from torch import Tensor

from irg_rl.errors import InputError

_SHOWN = 5


def check_keys(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], source: str) -> None:
    """InputError that names what is missing, unknown or of another shape."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{source} does not fit the configuration: {'; '.join(problems[:_SHOWN])}{more}")

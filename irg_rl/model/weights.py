"""Checks the names and shapes of a state dict before it is loaded."""

import re
from collections.abc import Iterable, Mapping

import torch

from irg_rl.errors import InputError

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def check_keys(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size], source: str) -> None:
    """Compare the names and shapes of weights that were found with the expected ones. Raise InputError if weights are
    missing, unknown or have a wrong shape. `source` says where the weights come from. The error message begins with
    `source` and then lists all wrong weights. Weights of different layers are listed together if their names differ
    only in the layer number."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        raise InputError(f"{source} does not fit the configuration: {'; '.join(folded(problems))}")


def folded(lines: Iterable[str]) -> list[str]:
    """Merge lines that differ only in their first number between dots (the number of a layer) into one line. This line
    lists all the numbers, as in `layers.{0-3,7}.mlp.up_proj.weight`."""
    numbers: dict[str, list[int]] = {}
    for line in lines:
        first = _NUMBER.search(line)
        pattern = line if first is None else f"{line[: first.start()]}{{}}{line[first.end() :]}"
        numbers.setdefault(pattern, []).extend([] if first is None else [int(first[0])])
    return [pattern.replace("{}", _ranges(sorted(found))) if found else pattern for pattern, found in numbers.items()]


def _ranges(numbers: list[int]) -> str:
    """Return a short text for numbers in ascending order: `4` for one number, `{0-3,7}` for several."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return words if len(numbers) == 1 else f"{{{words}}}"

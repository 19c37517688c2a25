"""Reference numbers, made by the code of the papers' authors: `bagel/` and `rl/`, each with a README."""

import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent


class Golden:
    """One file of reference tensors: `g["case/f64/name"]`, inputs in float64 by `g.input("noise")`."""

    def __init__(self, name: str):
        path = ROOT / f"{name}.safetensors"
        if not path.exists():
            raise AssertionError(f"reference numbers are missing: {path}")
        self.tensors = load_file(path)
        index = path.with_suffix(".index.json")
        self.cases = json.loads(index.read_text())["cases"] if index.exists() else {}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def input(self, key: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        value = self.tensors[f"in/{key}"]
        return value.to(dtype, copy=True) if value.is_floating_point() else value


@lru_cache
def golden(name: str) -> Golden:
    return Golden(name)


def agree(value, expected, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Compare as float64; a float32 value gets the README's allowance for float32 implementations."""
    value, expected = torch.as_tensor(value).detach(), torch.as_tensor(expected)
    if torch.float32 in (value.dtype, expected.dtype):
        rtol, atol = max(rtol, 3e-5), max(atol, 3e-6)
    torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=atol)

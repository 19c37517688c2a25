"""Weights on disk: one safetensors file, or several shards with an index as Hugging Face's libraries write them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from irg_rl.errors import InputError

WEIGHTS = "ema.safetensors"
INDICES = ("ema.safetensors.index.json", "model.safetensors.index.json")


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: `ema.safetensors`, or else the shards of the first index found. InputError names
    what is missing or broken."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = next((folder / name for name in INDICES if (folder / name).is_file()), None)
    if index is None:
        raise InputError(f"{folder / WEIGHTS} does not exist, nor an index of shards ({' or '.join(INDICES)})")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of shards ({error!r}): write or copy it again") from error
    return [folder / shard for shard in shards]


def read_tensors(path: Path, device: torch.device | str, dtype: torch.dtype, fp32: str = "") -> dict[str, Tensor]:
    """Tensors of a file in `dtype`; those whose name ends in `fp32` (if given) in fp32.

    Each tensor is copied into memory that torch allocated, which is aligned to 64 bytes. Tensors mapped from a file
    have the alignment of that file, and matrix products of differently aligned operands differ in the last bits. So
    without the copy equal weights from two folders could give different results. There is never a second copy of all
    tensors.
    """
    with _opened(path, device) as file:
        return {
            name: file.get_tensor(name).to(torch.float32 if fp32 and name.endswith(fp32) else dtype, copy=True)
            for name in file.keys()  # noqa: SIM118 - it is no dict
        }


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """Shapes of the tensors of a file, read from its header alone."""
    with _opened(path, "cpu") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[safe_open]:
    """InputError if the file is missing, cut off or has another format."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            yield file
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read ({error}): write or copy it again") from error

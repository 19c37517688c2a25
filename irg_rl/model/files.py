"""Weights on disk: one safetensors file, or several files (shards) with an index, as Hugging Face's libraries write
them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from irg_rl.errors import InputError
from irg_rl.text_in import read_json

WEIGHTS = "ema.safetensors"
WHOLE = (WEIGHTS, "ema_bf16.safetensors")
"""Possible names of a file that holds all weights. The second name is used by a release in bf16."""
INDICES = ("ema.safetensors.index.json", "model.safetensors.index.json")


def weight_files(folder: Path) -> list[Path]:
    """Return the paths of the weight files in a model folder. If one file has all weights, this is the only path.
    Otherwise these are the paths of all shards that the index names. Raises InputError if neither a weight file nor an
    index exists, or if the index is not valid."""
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    index = next((folder / name for name in INDICES if (folder / name).is_file()), None)
    if index is None:
        raise InputError(f"{folder / WEIGHTS} does not exist, nor an index of shards ({' or '.join(INDICES)})")
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(_is_plain(name) for name in names.values()):
        raise InputError(f"{index} is no index of shards (its weight_map names no files): write or copy it again")
    return [folder / shard for shard in sorted(set(names.values()))]


def _is_plain(name: object) -> bool:
    """Return whether `name` is a file name without a folder, so that the file must lie next to the index and not
    elsewhere on the disk."""
    return isinstance(name, str) and bool(name) and Path(name).name == name and "\0" not in name


def read_tensors(path: Path, device: torch.device | str, dtype: torch.dtype, fp32: str = "") -> dict[str, Tensor]:
    """Read all tensors of a safetensors file and return them by name, converted to `dtype`. If `fp32` is not empty, it
    is an ending of tensor names. Tensors with this ending are converted to fp32 instead.

    Each tensor is copied into memory that torch allocated, which is aligned to 64 bytes. Without the copy, tensors
    would have the alignment of the file. Matrix products of differently aligned operands differ in the last bits, so
    equal weights from two folders could give different results. Tensors are copied one by one, so memory never holds
    two copies of all tensors.
    """
    with _opened(path, device) as file:
        return {
            name: file.get_tensor(name).to(torch.float32 if fp32 and name.endswith(fp32) else dtype, copy=True)
            for name in file.keys()  # noqa: SIM118 - it is no dict
        }


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor in a safetensors file, by name. Only the header of the file is read."""
    with _opened(path, "cpu") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[Any]:
    """Open a safetensors file. Raises InputError if the file is missing, cut off or not in the safetensors format."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): write or copy it again") from error

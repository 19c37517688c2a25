"""Writes weights as several safetensors files (shards) with an index, as Hugging Face's libraries write them. Tensors
are written as they come, so the memory holds at most one shard."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
MOST_BYTES = 5_000_000_000
"""Largest size of a shard. A single tensor that is larger gets a shard of its own."""


def write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]], most_bytes: int = MOST_BYTES) -> None:
    """Write the tensors into `folder` as model-00001-of-0000N.safetensors, ..., and the index that names the shard of
    each tensor."""
    parts: list[tuple[Path, list[str]]] = []
    total = 0

    def write(part: dict[str, Tensor]) -> None:
        path = folder / f"{len(parts)}.part"
        save_file(part, path, metadata={"format": "pt"})
        parts.append((path, list(part)))

    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        if shard and held + tensor.nbytes > most_bytes:
            write(shard)
            shard, held = {}, 0
        shard[name] = tensor.contiguous()
        held += tensor.nbytes
        total += tensor.nbytes
    write(shard)
    where: dict[str, str] = {}
    for number, (path, names) in enumerate(parts, 1):  # the names need the number of shards, which is known only now
        file = path.rename(folder / f"model-{number:05d}-of-{len(parts):05d}.safetensors").name
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

"""Model folders in the format of BAGEL's release: JSON and tokenizer files, `ema.safetensors` (or shards), and
`ae.safetensors` with the autoencoder."""

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from irg_rl.errors import InputError
from irg_rl.model.attention import Backend
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import ModelConfig
from irg_rl.model.files import INDICES, WEIGHTS, WHOLE, read_shapes, read_tensors, weight_files
from irg_rl.model.latents import PositionTable, sincos_table
from irg_rl.model.tokenizer import TextTokenizer, load_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.model.weights import check_keys

AUTOENCODER = "ae.safetensors"
TABLES = "pos_embed.pos_embed"
"""End of the names of the two sin-cos position tables."""
_log = logging.getLogger(__name__)


@dataclass
class Folder:
    """The loaded content of a model folder: the model, the autoencoder and the tokenizer."""

    model: UnifiedModel
    autoencoder: Autoencoder
    tokenizer: TextTokenizer


def is_model_folder(path: Path) -> bool:
    """Return whether the folder holds the weights of a model, in one file or in shards."""
    return any((path / name).is_file() for name in (*WHOLE, *INDICES))


def save_folder(
    model: UnifiedModel,
    autoencoder: Autoencoder,
    tokenizer: TextTokenizer,
    path: Path,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a model folder. It is first written under a temporary name and then renamed to `path`, so that nobody reads
    an incomplete folder. An older folder at `path` is replaced. `add` is called with the temporary folder and may write
    further files into it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        model.config.write(aside)
        tokenizer.save(aside)
        dtype = model.llm2vae.weight.dtype
        weights = {name: as_read(tensor, dtype) if name.endswith(TABLES) else tensor.contiguous()
                   for name, tensor in model.state_dict().items()}  # fmt: skip
        save_file(weights, aside / WEIGHTS)
        autoencoder.save(aside / AUTOENCODER)
        add(aside)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_folder(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Backend | str = Backend.AUTO,
) -> Folder:
    """Read a model folder with `load_unified` and `load_autoencoder`. Raises InputError as these do, before any weight
    is read."""
    path = Path(path)
    _check_autoencoder(path, ModelConfig.read(path))
    model, tokenizer = load_unified(path, device, dtype, attention)
    return Folder(model, load_autoencoder(path, device), tokenizer)


def load_unified(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Backend | str = Backend.AUTO,
) -> tuple[UnifiedModel, TextTokenizer]:
    """Check the model and the tokenizer of a model folder, then read both. Every tensor is loaded directly to `device`.
    The weights are converted to the number type `dtype`, but the position tables stay in fp32.

    The model has two position tables (sin-cos). If a table is not in the weight files, it is computed. `attention`
    selects the attention kernels. Raises InputError if the folder has an error, or if this machine cannot run these
    kernels.
    """
    path, attention = Path(path), Backend(attention)
    attention.require(torch.device(device), dtype)
    model, tokenizer = _check_unified(path)
    model.attention = attention
    weights: dict[str, Tensor] = {}
    for file in weight_files(path):
        weights |= read_tensors(file, device, dtype, fp32=TABLES)
    for name, table in _tables(model).items():
        weights.setdefault(name, sincos_table(table.side, table.size).to(device))
    model.load_state_dict(weights, assign=True)
    return model, tokenizer


def load_autoencoder(path: Path, device: torch.device | str = "cpu") -> Autoencoder:
    """Check the autoencoder of a model folder, then read it to `device`, in fp32. Raises InputError if its file has an
    error."""
    path = Path(path)
    autoencoder, file = _check_autoencoder(path, ModelConfig.read(path)), path / AUTOENCODER
    autoencoder.load_flux_state_dict(read_tensors(file, device, torch.float32), str(file))
    return autoencoder


def check_folder(path: Path) -> Folder:
    """Check a model folder. Return its tokenizer, and its model and autoencoder on PyTorch's meta device, that is
    without values. Only the headers of the weight files are read.

    Raises InputError in three cases. A file is missing or broken. A weight is missing, unknown, or not of the shape
    that the JSON files say. The tokenizer has more ids than the embedding of the model. The message names the file, or
    all such weights.
    """
    path = Path(path)
    model, tokenizer = _check_unified(path)
    return Folder(model, _check_autoencoder(path, model.config), tokenizer)


def _check_unified(path: Path) -> tuple[UnifiedModel, TextTokenizer]:
    shapes = _weight_shapes(path)
    config = _with_real_table(ModelConfig.read(path), shapes, path)
    tokenizer = load_tokenizer(path)
    if len(tokenizer) > config.llm.vocab_size:
        raise InputError(f"{path}: the tokenizer has {len(tokenizer)} ids, the model {config.llm.vocab_size} rows")
    with torch.device("meta"):
        model = UnifiedModel(config, tokenizer.special)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: expected[name] for name in _tables(model)} | shapes
    check_keys(expected, found, str(path / WEIGHTS))
    return model, tokenizer


def _check_autoencoder(path: Path, config: ModelConfig) -> Autoencoder:
    with torch.device("meta"):
        autoencoder = Autoencoder(config.vae, config.latent_patch_size)
    file = path / AUTOENCODER
    autoencoder.check_flux_shapes(read_shapes(file), str(file))
    return autoencoder


def folder_sizes(path: Path) -> ModelConfig:
    """Return the sizes of the model in a folder. Only its JSON files and the headers of its weight files are read.
    Raises InputError if one of them is missing or broken."""
    return _with_real_table(ModelConfig.read(path), _weight_shapes(path), path)


def _weight_shapes(path: Path) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    for file in weight_files(path):
        shapes |= read_shapes(file)
    return shapes


def require_sizes(folder: ModelConfig, asked: ModelConfig, path: Path) -> None:
    """Compare the model sizes in a recipe (`asked`) with the sizes of the model folder that training starts from
    (`folder`). Raise InputError if sizes differ. The error names each size that differs. The setting `timestep_shift`
    is not compared, because it is not a size."""
    theirs, ours = folder.to_dict(), asked.to_dict()
    different = [
        f"model.{name} is {mine}, {found} in the folder"
        for name, found, mine in _differences(theirs, ours)
        if name != "timestep_shift"
    ]
    if different:
        raise InputError(f"{path} is another model than the recipe's: {'; '.join(different)}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, found in theirs.items():
        if isinstance(found, Mapping):
            yield from _differences(found, ours[name], f"{above}{name}.")
        elif found != ours[name]:
            yield f"{above}{name}", found, ours[name]


def _with_real_table(config: ModelConfig, shapes: Mapping[str, torch.Size], path: Path) -> ModelConfig:
    """Return the configuration with `max_latent_size` set to the side of the position table of latents that is in the
    weights. The configuration may have another value, because the config.json of a release may be older than its
    weights."""
    table = shapes.get("latent_pos_embed.pos_embed")
    if table is None or len(table) != 2:
        return config
    side = math.isqrt(table[0])
    if side * side != table[0] or side in (0, config.max_latent_size):
        return config
    _log.warning("%s: max_latent_size is %d, as the table has it, not %d", path, side, config.max_latent_size)
    return config.model_copy(update={"max_latent_size": side})


def _tables(model: UnifiedModel) -> dict[str, PositionTable]:
    """Return the two modules with sin-cos position tables, each under the name that its table has in the state dict."""
    return {
        "latent_pos_embed.pos_embed": model.latent_pos_embed,
        "vit_pos_embed.pos_embed": model.vit_pos_embed,
    }  # fmt: skip


def as_read(table: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a position table in the number type `dtype` of the other weights, if this conversion is exact; otherwise
    return it in fp32. The model always keeps its tables in fp32. The conversion is exact if the table was read from a
    file in `dtype`."""
    narrow = table.to(dtype)
    return narrow if torch.equal(narrow.float(), table) else table

"""Model folders in BAGEL's released form: three JSON files, tokenizer files, `ema.safetensors`, `ae.safetensors`."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from irg_rl.errors import InputError
from irg_rl.model.attention import Backend
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import ModelConfig
from irg_rl.model.latents import sincos_table
from irg_rl.model.tokenizer import TextTokenizer, load_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.model.weights import check_keys

WEIGHTS = "ema.safetensors"
AUTOENCODER = "ae.safetensors"


@dataclass
class Folder:
    """What a model folder holds."""

    model: UnifiedModel
    autoencoder: Autoencoder
    tokenizer: TextTokenizer


def save_folder(
    model: UnifiedModel,
    autoencoder: Autoencoder,
    tokenizer: TextTokenizer,
    path: Path,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Writes a folder aside, then renames it into place over an older one: readers find a whole folder or none. `add`
    puts further files into it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        model.config.write(aside)
        tokenizer.save(aside)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, aside / WEIGHTS)
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
    attention: Backend = Backend.SDPA,
) -> Folder:
    """Reads a folder. The autoencoder stays in fp32. InputError names every key that is missing, unknown or mis-shaped,
    except the two sin-cos tables, which are recomputed when absent."""
    path = Path(path)
    config = ModelConfig.read(path)
    tokenizer = load_tokenizer(path)
    if len(tokenizer) > config.llm.vocab_size:
        raise InputError(f"{path}: the tokenizer has {len(tokenizer)} ids, the model {config.llm.vocab_size} rows")
    with torch.device("meta"):
        model = UnifiedModel(config, tokenizer.special, attention)
        autoencoder = Autoencoder(config.vae, config.latent_patch_size)
    weights = _read(path / WEIGHTS, device)
    for name, table in (("latent_pos_embed", model.latent_pos_embed), ("vit_pos_embed", model.vit_pos_embed)):
        key = f"{name}.pos_embed"
        weights.setdefault(key, sincos_table(table.side, table.size).to(device))
    check_keys({name: tensor.shape for name, tensor in model.state_dict().items()}, weights, str(path / WEIGHTS))
    tables = {name: tensor.float() for name, tensor in weights.items() if name.endswith("pos_embed")}
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()} | tables, assign=True)
    autoencoder.load_flux_state_dict(
        {name: tensor.float() for name, tensor in _read(path / AUTOENCODER, device).items()}, str(path / AUTOENCODER)
    )
    return Folder(model, autoencoder, tokenizer)


def _read(path: Path, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Tensors in memory that torch allocated, and so aligned to 64 bytes.

    A file's own tensors lie wherever its header left them, and matrix products of differently aligned operands differ
    in their last bits: equal weights from different folders would not give equal results.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read ({error}): write or copy it again") from error

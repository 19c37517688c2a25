"""Writes a model folder for publication.

    model-0000k-of-0000n.safetensors, model.safetensors.index.json    weights in bf16
    ae.safetensors                                                    autoencoder, in fp32 as in BAGEL's release
    config.json, llm_config.json, vit_config.json, tokenizer files    as in BAGEL's release
    preprocessor_config.json, generation_config.json                  how images are prepared and the model is sampled
    README.md                                                         model card
    adapter/                                                          adapters that LoRA trained, with a card

Weights are read, converted and written one after the other, so that 14.6 billion numbers need little memory.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from irg_rl.errors import InputError
from irg_rl.export.card import Origin, adapter_card, model_card
from irg_rl.export.settings import write_settings
from irg_rl.learner.lora import FOLDER as ADAPTER
from irg_rl.model.files import StoredTensors, stored_tensors, weight_files
from irg_rl.model.folder import AUTOENCODER, TABLES, as_read, check_folder
from irg_rl.model.shards import MOST_BYTES, write_shards
from irg_rl.text_in import read_json

CARD = "README.md"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"


def export_folder(source: Path, out: Path, origin: Origin, most_bytes: int = MOST_BYTES) -> None:
    """Write the model folder `source` as the folder `out`. `origin` is what the cards say. `most_bytes` is the largest
    size of a shard.

    The folder is first written under a temporary name, so `out` is complete or absent. Raises InputError if `source` is
    broken, or if `out` exists and has files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already: choose another folder with --out, or remove it")
    checked = check_folder(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    aside.mkdir()
    try:
        checked.model.config.write(aside)
        checked.tokenizer.save(aside)
        with stored_tensors(weight_files(source)) as stored:
            write_shards(aside, in_bf16(stored), most_bytes)
        shutil.copyfile(source / AUTOENCODER, aside / AUTOENCODER)
        write_settings(aside, origin.recipe, checked.model.config, checked.tokenizer.special)
        has_adapter = (source / ADAPTER / ADAPTER_WEIGHTS).is_file()
        parameters = sum(p.numel() for p in checked.model.parameters())
        card = model_card(origin, parameters, has_adapter)
        (aside / CARD).write_text(card, encoding="utf-8")
        if has_adapter:
            _write_adapter(source / ADAPTER, aside / ADAPTER, origin)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def in_bf16(stored: StoredTensors) -> Iterator[tuple[str, Tensor]]:
    """Return the weights in bf16, one after the other. The two position tables stay in fp32, unless bf16 holds them
    exactly."""
    for name in sorted(stored.names):
        tensor = stored.read(name)
        yield name, as_read(tensor.float(), torch.bfloat16) if name.endswith(TABLES) else tensor.bfloat16()


def _write_adapter(source: Path, out: Path, origin: Origin) -> None:
    """Write the adapters as peft writes them. Their configuration has the published name of the base model. The path on
    this machine is left out."""
    out.mkdir()
    config = read_json(source / ADAPTER_CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{source / ADAPTER_CONFIG} holds no JSON object")
    config[BASE] = origin.base
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(source / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    (out / CARD).write_text(adapter_card(origin, config), encoding="utf-8")

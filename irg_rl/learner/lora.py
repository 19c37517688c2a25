"""LoRA with the peft library: adapters on the matrices of the experts, over a frozen base.

    W x  becomes  W x + alpha / rank * B (A x),   A [rank, in] random, B [out, rank] zero at the start

(Hu et al. 2021, arXiv 2106.09685). Learner and samplers both keep W and the adapters apart. So only adapters are sent
from the learner to the samplers. And both compute the same numbers in bf16: a merged B A would be rounded to the
spacing of W. The model folders that a stage writes contain merged weights, merged in fp32.

Adapters have peft's names in a state dict: `<layer>.lora_A.default.weight`, `<layer>.lora_B.default.weight`. The frozen
matrix is `<layer>.base_layer.weight`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from irg_rl.config import LoraRecipe
from irg_rl.model.folder import Folder, load_folder
from irg_rl.model.unified import UnifiedModel

FOLDER = "adapter"
"""Subfolder of a model folder with the adapter in peft's format."""
_SUFFIX = {"und": "", "gen": "_moe_gen"}
_OF_MLP = ("gate_proj", "up_proj", "down_proj")
_PREFIX = "base_model.model."
"""Prefix that peft adds to the names of the wrapped model."""


def add_adapters(model: nn.Module, recipe: LoraRecipe, seed: int) -> None:
    """Add new adapters to the model and freeze all other weights. The output of the model does not change.

    The adapters are drawn from `seed` alone, so all ranks have the same ones. The global generator is not used.
    """
    # imported here: it takes seconds, and most processes do not need it
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(_config(recipe), model)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within this context the model computes as its base alone, bit for bit. Only for forwards without gradients."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def load_trainable(
    path: Path, device: str, precision: str, lora: LoraRecipe | None, seed: int, attention: str = "auto"
) -> Folder:
    """Load a model folder for the engine, with adapters if `lora` is given, in the precision of the forward pass. The
    engine makes its fp32 master weights from these."""
    folder = load_folder(path, device, torch.bfloat16 if precision == "bf16" else torch.float32, attention)
    if lora is not None:
        add_adapters(folder.model, lora, seed)
    return folder


def served(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are sent to the samplers: the adapters of a model that has some, else all weights."""
    adapters = {name: tensor for name, tensor in weights.items() if is_adapter(name)}
    return adapters or dict(weights)


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def adapter_size(model: nn.Module, recipe: LoraRecipe) -> int:
    """Number of trained values, without creating them: rank * (in + out) per matrix."""
    return sum(recipe.rank * (m.in_features + m.out_features) for m in _targets(model, recipe))


@dataclass(frozen=True)
class Adapter:
    """Trained adapters of a run, ready to be merged or saved."""

    recipe: LoraRecipe
    weights: dict[str, Tensor]  # by their names in the state dict of training
    base: Path  # model folder that they belong to

    def merge_into(self, model: UnifiedModel) -> UnifiedModel:
        """Replace W by W + alpha / rank * B A. The result has the names and shapes of the base."""
        from peft import get_peft_model

        tuner = get_peft_model(model, _config(self.recipe))
        wanted = {name for name in tuner.state_dict() if is_adapter(name)}
        weights = {_PREFIX + name: tensor for name, tensor in self.weights.items()}
        assert wanted == weights.keys(), sorted(wanted ^ weights.keys())[:5]
        tuner.load_state_dict(weights, strict=False)
        merged = tuner.merge_and_unload()
        assert isinstance(merged, UnifiedModel)
        return merged.requires_grad_(True)

    def save(self, model_folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors. `PeftModel.from_pretrained` loads them onto the
        model of `base`."""
        from peft.utils import SAFETENSORS_WEIGHTS_NAME

        folder = model_folder / FOLDER
        config = _config(self.recipe)
        config.base_model_name_or_path = str(self.base.resolve())
        config.inference_mode = True
        config.save_pretrained(str(folder))
        tensors = {_PREFIX + name.replace(".default.", "."): t.contiguous() for name, t in self.weights.items()}
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def _config(recipe: LoraRecipe):
    from peft import LoraConfig

    return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=_pattern(recipe))


def _pattern(recipe: LoraRecipe) -> str:
    """A pattern for the full names of all targets. The vision tower has layers with the same last names."""
    places = [
        f"mlp{_SUFFIX[expert]}.{target}" if target in _OF_MLP else f"self_attn.{target}{_SUFFIX[expert]}"
        for expert in recipe.experts
        for target in recipe.targets
    ]
    return rf"language_model\.model\.layers\.\d+\.({'|'.join(map(re.escape, places))})"


def _targets(model: nn.Module, recipe: LoraRecipe) -> Iterator[nn.Linear]:
    pattern = re.compile(_pattern(recipe))
    return (cast(nn.Linear, module) for name, module in model.named_modules() if pattern.fullmatch(name))

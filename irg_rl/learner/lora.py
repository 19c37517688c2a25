"""LoRA with the peft library. Adapters on the weight matrices of the two experts are trained, and all other weights are
frozen. (An expert is a set of weights in each layer: `und` for understanding, `gen` for image generation.)

    W x  becomes  W x + alpha / rank * B (A x),   A [rank, in] random, B [out, rank] zero at the start

(Hu et al. 2021, arXiv 2106.09685). The learner and the samplers both keep W and the adapters as separate tensors. This
has two advantages. The learner sends only the adapters to the samplers. And learner and samplers compute the same
numbers in bf16: if B A were merged into W, it would be rounded to the bf16 spacing of W. The model folders that a stage
writes contain merged weights. This merge is done in fp32.

The adapters have peft's names in a state dict: `<layer>.lora_A.default.weight` and `<layer>.lora_B.default.weight`. The
frozen matrix is `<layer>.base_layer.weight`.
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
from irg_rl.model.folder import load_unified
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.model.unified import UnifiedModel

FOLDER = "adapter"
"""Name of the subfolder of a model folder that contains the adapter in peft's format."""
_SUFFIX = {"und": "", "gen": "_moe_gen"}
_OF_MLP = ("gate_proj", "up_proj", "down_proj")
_PREFIX = "base_model.model."
"""Prefix that peft adds to the names of the wrapped model."""


def add_adapters(model: nn.Module, recipe: LoraRecipe, seed: int) -> None:
    """Add new adapters to the model and freeze all other weights. The output of the model does not change yet, because
    the matrices B of the adapters start at 0.

    The values of the adapters depend on `seed` alone, so all ranks have the same adapters. The global random number
    generator is not used.
    """
    # Imported here because the import takes seconds and most processes do not need it.
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(_config(recipe), model)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block, the model computes exactly, bit for bit, what it would compute without adapters. Use it
    only for forward passes without gradients.
    """
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
) -> tuple[UnifiedModel, TextTokenizer]:
    """Load the model and the tokenizer of a model folder for training, in the precision of the forward pass ("fp32" or
    "bf16"). If `lora` is given, add adapters to the model; their first values depend on `seed`. `attention` selects the
    attention kernels. The training engine later makes its fp32 master weights from the loaded weights."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model, tokenizer = load_unified(path, device, dtype, attention)
    if lora is not None:
        add_adapters(model, lora, seed)
    return model, tokenizer


def served(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that are sent to the samplers. If the model has adapters, only the adapters are sent.
    Otherwise all given weights are sent."""
    adapters = {name: tensor for name, tensor in weights.items() if is_adapter(name)}
    return adapters or dict(weights)


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def adapter_size(model: nn.Module, recipe: LoraRecipe) -> int:
    """Return the number of values that LoRA trains: the sum of rank * (in + out) over all matrices with adapters. The
    function does not create the adapters.
    """
    return sum(recipe.rank * (m.in_features + m.out_features) for m in _targets(model, recipe))


@dataclass(frozen=True)
class Adapter:
    """The trained LoRA adapters of a run. They can be merged into the model or saved."""

    recipe: LoraRecipe
    weights: dict[str, Tensor]  # the adapters, by their names in the state dict of training
    base: Path  # folder of the model that the adapters belong to

    def merge_into(self, model: UnifiedModel) -> UnifiedModel:
        """Replace each weight matrix W that has an adapter (A, B) by W + alpha / rank * B A, and return the model. Its
        weights then have the same names and shapes as in a model without adapters.
        """
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
        """Write adapter_config.json and adapter_model.safetensors into the subfolder `adapter` of `model_folder`.
        `PeftModel.from_pretrained` can then add the adapters to the model in the folder `self.base`."""
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
    """Return a regular expression that matches the full names of all linear layers that get adapters. Matching only the
    last part of a name would not be enough, because layers of the vision tower end with the same names."""
    places = [
        f"mlp{_SUFFIX[expert]}.{target}" if target in _OF_MLP else f"self_attn.{target}{_SUFFIX[expert]}"
        for expert in recipe.experts
        for target in recipe.targets
    ]
    return rf"language_model\.model\.layers\.\d+\.({'|'.join(map(re.escape, places))})"


def _targets(model: nn.Module, recipe: LoraRecipe) -> Iterator[nn.Linear]:
    pattern = re.compile(_pattern(recipe))
    return (cast(nn.Linear, module) for name, module in model.named_modules() if pattern.fullmatch(name))

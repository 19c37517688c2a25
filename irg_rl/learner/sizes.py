"""The number of bytes of weights that a learner sends to the samplers, and of those that it saves. Both follow from the
sizes of the model in the recipe, so no model is loaded."""

from collections.abc import Callable
from functools import cache
from typing import cast

import torch

from irg_rl.config import LoraRecipe
from irg_rl.learner.lora import adapter_size
from irg_rl.model.config import ModelConfig
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel

FP32 = 4
SAVED = 5
"""A checkpoint has at most this many copies of the trained weights in fp32: the weights, the two moments of AdamW, the
moving average, and the old policy."""


def _published_bytes(config: ModelConfig, lora: LoraRecipe | None) -> int:
    """Return how many bytes the learner sends when it publishes its weights once. With `lora` these are the adapters,
    otherwise all weights and position tables. They are sent in fp32 (publish.py)."""
    with torch.device("meta"):
        model = UnifiedModel(config, SpecialIds(0, 1, 2, 3))
    if lora is not None:
        return FP32 * adapter_size(model, lora)
    return FP32 * sum(tensor.numel() for tensor in model.state_dict().values())


published_bytes = cast(Callable[[ModelConfig, LoraRecipe | None], int], cache(_published_bytes))
"""The same, computed once for each model. (Type checkers do not know that frozen settings can be hashed.)"""


def saved_bytes(config: ModelConfig, lora: LoraRecipe | None) -> int:
    """Return the largest number of bytes of a checkpoint of a training."""
    return SAVED * published_bytes(config, lora)

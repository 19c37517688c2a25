"""Load weights into a model that samples. The learner (the training process) has published these weights. All weights
are checked first. If a check fails, no weights are loaded.

Weights are sent as plain fp32 arrays under the names of the model's state dict. Their digest (a hash of all arrays) is
sent with them; learner/publish.py computes it. If the model has LoRA adapters, only the adapters are sent.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from irg_rl.errors import UserError
from irg_rl.learner.lora import served
from irg_rl.learner.publish import weights_digest


class WeightsError(UserError, ValueError):
    """Raised if received weights cannot be used. There are three causes:
    * The digest (hash) of the weights is not the announced digest.
    * The weights do not fit the model.
    * The worker does not have the requested version of the weights."""


def load_weights(model: nn.Module, arrays: Mapping[str, np.ndarray], digest: str) -> None:
    """Copy the arrays into the model, converted to the model's dtypes. `arrays` maps the names of weights to arrays.

    `digest` is the expected digest (hash) of the arrays. Raises WeightsError if the arrays have another digest, or if
    their names or shapes do not fit the model. The model is then unchanged.
    """
    found = weights_digest(arrays)
    if found != digest:
        raise WeightsError(f"weights with digest {found[:12]} arrived where {digest[:12]} was announced")
    state = served(model.state_dict())
    missing, unknown = sorted(state.keys() - arrays.keys()), sorted(arrays.keys() - state.keys())
    if missing or unknown:
        raise WeightsError(f"published weights do not fit the model: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, tensor in state.items():
        if tensor.shape != arrays[name].shape:
            raise WeightsError(
                f"{name} was published as {list(arrays[name].shape)}, the model has {list(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.tensor(arrays[name]))

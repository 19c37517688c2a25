"""Loads released models of transformers from a folder."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoProcessor

from rewards.base import ScorerUnavailable

WeightPrecision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_released(
    path: str | Path, model_type: Any, precision: WeightPrecision, device: str, what: str
) -> tuple[Any, Any]:
    """Return the processor and the model in a folder that `save_pretrained` has written. The model is in evaluation
    mode. Nothing is downloaded. `model_type` is the class of transformers that loads the model. `what` says in messages
    what should be in the folder.

    Raises ScorerUnavailable if the folder has no such model, or if the device is not there.
    """
    path = Path(path)
    if not path.is_dir():
        raise ScorerUnavailable(f"no {what} at {path}: name the folder of a released model with its processor")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ScorerUnavailable(f"{path} should be on {device}, and no GPU is visible: set rewards.device=cpu")
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        model = model_type.from_pretrained(path, dtype=DTYPES[precision], local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ScorerUnavailable(f"{path} holds no {what}: {type(error).__name__}: {error!s:.300}") from error
    return processor, model.to(device).eval()

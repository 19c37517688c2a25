"""Save and restore the state of this process's random number generators. The state is stored as tensors and JSON, so no
pickle is needed.
"""

import json
import random

import numpy as np
import torch
from torch import Tensor


def capture() -> dict[str, Tensor]:
    """Return the state of the global random number generators of torch, CUDA (if in use), numpy and Python."""
    numpy = np.random.get_state(legacy=False)
    keys, position = numpy["state"]["key"], numpy["state"]["pos"]
    legacy = (numpy["bit_generator"], position, numpy["has_gauss"], numpy["gauss"])
    words = {"python": random.getstate(), "numpy": legacy}
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "words": torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8).clone(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Tensor]) -> None:
    """Set the random number generators to a state that `capture` returned."""
    words = json.loads(bytes(state["words"].tolist()).decode())
    version, internal, gauss = words["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, position, has_gauss, cached = words["numpy"]
    np.random.set_state((kind, state["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

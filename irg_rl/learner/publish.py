"""Publishing weights to the samplers: named arrays with a version and a digest.

    learner: publication = publish(weights, version)  ->  samplers: set_weights(arrays, version, digest)
    driver:  require_acknowledged(publication, answers); only then slots are freed

The digest covers names and bytes. A sampler that answers with it has exactly the trained weights (invariant 4).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from irg_rl.errors import UserError


class PublishError(UserError, RuntimeError):
    """A sampler has other weights than the published ones."""


@dataclass(frozen=True)
class Publication:
    """Published weights: fp32 arrays by their names in the state dict of the model."""

    version: int
    digest: str
    arrays: dict[str, np.ndarray]


def publish(weights: Iterable[tuple[str, Tensor]], version: int) -> Publication:
    """Make a publication from the full weights of a model. Weights that are not fp32 are converted to fp32."""
    arrays = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in weights}
    return Publication(version, weights_digest(arrays), arrays)


def weights_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over the sorted names, each followed by the bytes of its array."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()


def require_acknowledged(version: int, digest: str, answers: Iterable[tuple[int | None, str]]) -> None:
    """Raise PublishError unless every sampler answered with the published (version, digest)."""
    for place, (held, found) in enumerate(answers):
        if (held, found) != (version, digest):
            raise PublishError(
                f"version {version} ({digest[:12]}) was published but sampler {place} serves {held} ({found[:12]})"
            )

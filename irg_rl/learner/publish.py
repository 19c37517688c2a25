"""Weights on their way to the samplers: named arrays with a version and a digest.

    learner: publication = publish(weights, version)  ->  samplers: set_weights(arrays, version, digest)
    driver:  require_acknowledged(publication, answers), and only then are slots freed

The digest is over names and bytes, so a sampler that answers with it serves exactly what was trained (invariant 4).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from irg_rl.errors import UserError


class PublishError(UserError, RuntimeError):
    """A sampler serves with other weights than those that were published."""


@dataclass(frozen=True)
class Publication:
    """fp32 arrays by the names of the model's state dict."""

    version: int
    digest: str
    arrays: dict[str, np.ndarray]


def publish(weights: Iterable[tuple[str, Tensor]], version: int) -> Publication:
    """Takes a model's full weights; other dtypes than fp32 are widened."""
    arrays = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in weights}
    return Publication(version, weights_digest(arrays), arrays)


def weights_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names in sorted order, each followed by its array's bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()


def require_acknowledged(version: int, digest: str, answers: Iterable[tuple[int | None, str]]) -> None:
    """Raises PublishError unless every (version, digest) a sampler answered with is the published one."""
    for place, (held, found) in enumerate(answers):
        if (held, found) != (version, digest):
            raise PublishError(
                f"version {version} ({digest[:12]}) was published but sampler {place} serves {held} ({found[:12]})"
            )

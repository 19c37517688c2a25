"""Publish weights to the samplers. The weights are named arrays with a version number and a digest (hash).

    learner: publication = publish(weights, version)  ->  samplers: set_weights(arrays, version, digest)
    driver:  require_acknowledged(version, digest, answers)

The last call checks that every sampler has the new weights. Only then the driver lets new groups take the places of the
trained groups. (A group is all samples of one prompt. The number of groups that may be in progress is limited.)

The digest covers the names and the bytes of the arrays. If a sampler answers with the same digest as the publication,
it has exactly the trained weights (invariant 4 of docs/architecture.md).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from irg_rl.errors import UserError


class PublishError(UserError, RuntimeError):
    """Raised if a sampler does not have the published weights."""


@dataclass(frozen=True)
class Publication:
    """Weights to send to the samplers: fp32 arrays by their names in the state dict of the model, with a version number
    and a digest, which is the sha256 of all names and arrays. `step` says how far the trained weights have moved since
    training began (see `WeightSteps`)."""

    version: int
    digest: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    step: float = 0.0


def publish(weights: Iterable[tuple[str, Tensor]], version: int, step: float = 0.0) -> Publication:
    """Make a `Publication` from weights of the model. Weights in other number types are converted to fp32."""
    arrays = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in weights}
    return Publication(version, weights_digest(arrays), arrays, step)


def weights_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of all names and arrays: for each name in sorted order, the name and then the bytes of its
    array.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()


def require_acknowledged(version: int, digest: str, answers: Iterable[tuple[int | None, str]]) -> None:
    """Check that every sampler has the published weights. `version` and `digest` (hash) belong to the published
    weights. `answers` has one pair for each sampler: the version and the digest of the weights that this sampler now
    has. Raises PublishError if a pair is not (`version`, `digest`)."""
    for held, found in answers:
        if (held, found) != (version, digest):
            raise PublishError(
                f"version {version} ({digest[:12]}) was published but a sampler serves {held} ({found[:12]})"
            )

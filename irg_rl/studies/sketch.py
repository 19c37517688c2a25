"""Sketches: short vectors that represent large gradients and approximately keep their inner products.

The method is the count sketch (Charikar, Chen and Farach-Colton 2002). A sketch has K entries. Every number of the
gradient is multiplied by a random sign and added to one random entry. <sketch a, sketch b> is an unbiased estimate of
<a, b>, with standard deviation at most sqrt(2 / K) |a| |b|.

Shape letters: K entries of a sketch, M batches.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.evaluate.intervals import Measure
from rollouts.noise import hashed

PLACES = 4096
Z = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def sketch(gradients: Mapping[str, Tensor], places: int = PLACES) -> Float[np.ndarray, "K"]:
    """Return one sketch (short vector with `places` entries) of the gradients of all parameters together. `gradients`
    maps the name of each parameter to its gradient. A parameter that is not in `gradients` counts as a gradient of 0.

    Each number of a gradient is added to a random entry with a random sign. Only the name of the parameter determines
    these random entries and signs. So sketches can be compared even if they belong to different batches, or to
    different credit schemes (ways to turn rewards into advantages).
    """
    total = torch.zeros(places, dtype=torch.float64)
    for name, gradient in gradients.items():
        numbers = gradient.detach().double().cpu().ravel()
        generator = torch.Generator().manual_seed(hashed("sketch", name) % 2**63)
        where = torch.randint(places, numbers.shape, generator=generator)
        sign = torch.randint(2, numbers.shape, generator=generator).double() * 2 - 1
        total.index_add_(0, where, sign * numbers)
    return total.numpy()


def gram(sketches: Float[np.ndarray, "M K"], squares: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M M"]:
    """Return the matrix of inner products of the gradients of M batches. The entries are estimated from the sketches
    (short vectors that represent the gradients). Only the diagonal is exact: it has the squared norms `squares`."""
    table = sketches @ sketches.T
    np.fill_diagonal(table, squares)
    return table


def signal(table: Float[np.ndarray, "M M"]) -> float:
    """Return an unbiased estimate of |E g|^2. Here g is the gradient of a random batch, and E g its expected value.
    `table[i, j]` is the inner product of the gradients of batches i and j. The estimate is the mean of all entries with
    i != j (a U-statistic). It may be below 0."""
    m = len(table)
    return float((table.sum() - np.trace(table)) / (m * (m - 1)))


def signal_to_noise(table: Float[np.ndarray, "M M"]) -> float:
    """Return the signal-to-noise ratio: |E g|^2 divided by the trace of the covariance of g. Here g is the gradient of
    a random batch, and E g its expected value. Numerator and denominator are estimated without bias. `table[i, j]` is
    the inner product of the gradients of batches i and j. The ratio is nan if all gradients are 0."""
    m = len(table)
    spread = (np.trace(table) - table.sum() / m) / (m - 1)
    return signal(table) / spread if spread > 0 else float("nan")


def half_cosine(table: Float[np.ndarray, "M M"]) -> float:
    """Return the cosine between two mean gradients. One is the mean over the batches with an even index. The other is
    the mean over the batches with an odd index. The cosine is near 1 if the gradient has little noise. `table[i, j]` is
    the inner product of the gradients of batches i and j. The inner products may be estimates. With estimates, the
    squared norm of a mean gradient can come out as 0 or below. The cosine is then nan."""
    odd = np.arange(len(table)) % 2 == 1
    a, b = table[~odd][:, ~odd].sum(), table[odd][:, odd].sum()
    return float(table[~odd][:, odd].sum() / np.sqrt(a * b)) if a > 0 and b > 0 else float("nan")


def alignment(
    own: Float[np.ndarray, "M M"], reference: Float[np.ndarray, "M M"], across: Float[np.ndarray, "M M"]
) -> float:
    """Return the cosine between the expected gradients of two credit schemes (ways to turn rewards into advantages):
    this scheme and a reference scheme. Each scheme has one gradient per batch. Each argument has one inner product of
    two gradients for every pair of batches i and j:
    * `own[i, j]`: this scheme in batch i, and this scheme in batch j.
    * `reference[i, j]`: the reference scheme in batch i, and the reference scheme in batch j.
    * `across[i, j]`: this scheme in batch i, and the reference scheme in batch j.

    Only pairs of different batches are used. Within one batch, the two schemes share noise, and this noise would change
    the result. The cosine is nan if the estimated squared norm of one of the expected gradients is 0 or below.
    """
    scale = signal(own) * signal(reference)
    return signal(across) / float(np.sqrt(scale)) if min(signal(own), signal(reference)) > 0 else float("nan")


def jackknifed(estimate: Callable[..., float], *tables: Float[np.ndarray, "M M"]) -> Measure:
    """Return the value of `estimate(*tables)` with a 95 % interval by the jackknife. `tables` are matrices with one row
    and one column for each of the M batches. For the jackknife, the estimate is computed M more times. Each time, the
    row and the column of one batch are removed from all matrices. If one of the M + 1 estimates is not finite, the
    result has no interval."""
    m, value = len(tables[0]), estimate(*tables)
    left = []
    for batch in range(m):
        kept = np.arange(m) != batch
        left.append(estimate(*(table[kept][:, kept] for table in tables)))
    known = np.array([one for one in left if np.isfinite(one)])
    if len(known) < m or not np.isfinite(value):
        return Measure(value, m)
    error = np.sqrt((m - 1) / m * np.square(known - known.mean()).sum())
    return Measure(value, m, value - Z * error, value + Z * error)

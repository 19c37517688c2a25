"""How sure a figure is: Wilson for a proportion, the paired bootstrap over prompts for everything else.

Every measure here is a ratio of two sums over trajectories: accuracy is right / all, repair is (wrong, then right) /
wrong. Resampling prompts therefore only re-weights the two sums, and two arms measured on the same prompts are
re-weighted alike, which is what makes the bootstrap of their difference *paired*.

Shape letters: N trajectories, P prompts, R resamples.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A figure, how many cases it rests on, and its interval (nan where there is none)."""

    value: float
    n: int
    low: float = float("nan")
    high: float = float("nan")

    def to_dict(self) -> dict:
        """Plain numbers for JSON, which has no nan: null."""
        return {key: value if isfinite(value) else None for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Terms:
    """A measure as two sums: `value = sum(top) / sum(bottom)`, one term per trajectory, and whose prompt it is."""

    top: Float[np.ndarray, "N"]
    bottom: Float[np.ndarray, "N"]
    prompt_ids: list[str]

    @property
    def value(self) -> float:
        return _divide(self.top.sum(), self.bottom.sum())

    @property
    def n(self) -> int:
        """Trajectories that count."""
        return int((self.bottom > 0).sum())

    def per_prompt(self, order: Sequence[str]) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]:
        """Both sums by prompt, in this order of prompts."""
        place = {prompt: i for i, prompt in enumerate(order)}
        index = np.array([place[prompt] for prompt in self.prompt_ids], dtype=int)
        return np.bincount(index, self.top, len(order)), np.bincount(index, self.bottom, len(order))


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, eq. 5): honest near 0 and 1, where damage lives."""
    if n == 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # the ends touch 0 and 1 exactly where the share does; rounding would leave the share a hair outside
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def proportion(terms: Terms, level: float = LEVEL) -> Measure:
    """A share of cases with Wilson's interval; the terms must be 0 or 1. Where prompts come several times (seeds,
    samples), the interval is that of as many independent cases as these are worth."""
    return Measure(terms.value, terms.n, *wilson(terms.value * (n := independent(terms)), n, level))


def independent(terms: Terms) -> float:
    """Number of independent cases with the variance that these have between prompts: n / design effect (Kish 1965), by
    the linearised variance of a ratio; at least one a prompt, at most n. A share of 0 or 1 shows no variance and counts
    one case a prompt."""
    top, bottom = terms.per_prompt(sorted(set(terms.prompt_ids)))
    prompts, share = int((bottom > 0).sum()), terms.value
    if prompts in (0, terms.n):
        return terms.n
    spread = np.square(top - share * bottom).sum() * prompts / max(prompts - 1, 1)
    if spread == 0 or not 0 < share < 1:
        return prompts
    return float(np.clip(share * (1 - share) * bottom.sum() ** 2 / spread, prompts, terms.n))


def mean(terms: Terms, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Measure:
    """A mean with its percentile bootstrap over prompts."""
    order = sorted(set(terms.prompt_ids))
    weights = _weights(len(order), resamples, seed)
    return Measure(terms.value, terms.n, *_percentiles(_resampled([terms], order, weights), level))


def difference(
    a: Terms | Sequence[Terms],
    b: Terms | Sequence[Terms],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Measure:
    """`a - b` with the paired percentile bootstrap over prompts; `n` is the number of prompts.

    A list of terms is one entry per seed, pooled: a resampled prompt brings all its seeds along, so seeds of the same
    prompt are not mistaken for independent evidence. Seeds themselves are few and are shown, not resampled.
    Raises ValueError when both sides were not measured on the same prompts.
    """
    sides, order = _aligned(a, b)
    weights = _weights(len(order), resamples, seed)
    replicates = _resampled(sides[0], order, weights) - _resampled(sides[1], order, weights)
    return Measure(_pooled(sides[0]) - _pooled(sides[1]), len(order), *_percentiles(replicates, level))


def ratio(
    a: Terms | Sequence[Terms],
    b: Terms | Sequence[Terms],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Measure:
    """`a / b` under the same resampling as `difference`."""
    sides, order = _aligned(a, b)
    weights = _weights(len(order), resamples, seed)
    replicates = _divide(_resampled(sides[0], order, weights), _resampled(sides[1], order, weights))
    return Measure(_divide(_pooled(sides[0]), _pooled(sides[1])), len(order), *_percentiles(replicates, level))


def pooled(terms: Sequence[Terms]) -> Terms:
    """Several seeds as one."""
    return Terms(
        np.concatenate([t.top for t in terms]),
        np.concatenate([t.bottom for t in terms]),
        [prompt for t in terms for prompt in t.prompt_ids],
    )


def _pooled(side: Sequence[Terms]) -> float:
    return pooled(side).value


def _aligned(a: Terms | Sequence[Terms], b: Terms | Sequence[Terms]) -> tuple[list[list[Terms]], list[str]]:
    sides = [[side] if isinstance(side, Terms) else list(side) for side in (a, b)]
    prompts = [{prompt for terms in side for prompt in terms.prompt_ids} for side in sides]
    if prompts[0] != prompts[1]:
        odd = sorted(prompts[0] ^ prompts[1])
        raise ValueError(
            f"a paired comparison needs the same prompts on both sides; {len(odd)} are on one side only, "
            f"the first is {odd[0]!r}: evaluate both on the same prompts"
        )
    return sides, sorted(prompts[0])


def _weights(prompts: int, resamples: int, seed: int) -> Float[np.ndarray, "R P"]:
    """How often each prompt is drawn in each resample."""
    if prompts == 0:
        return np.zeros((resamples, 0))
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)


def _resampled(
    side: Sequence[Terms], order: Sequence[str], weights: Float[np.ndarray, "R P"]
) -> Float[np.ndarray, "R"]:
    top, bottom = pooled(side).per_prompt(order)
    return _divide(weights @ top, weights @ bottom)


def _percentiles(replicates: Float[np.ndarray, "R"], level: float) -> tuple[float, float]:
    """A resample without a single case (0 / 0) says nothing and is left out."""
    finite = replicates[np.isfinite(replicates)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _divide(top, bottom):
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(np.asarray(bottom) == 0, np.nan, np.divide(top, bottom))
    return float(result) if result.ndim == 0 else result

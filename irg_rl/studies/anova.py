"""Two-way analysis of variance: how much of an outcome comes from the reflection and how much from the seed? One
outcome per pair.

Shape letters: P prompts, N reflections, S seeds.
"""

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.intervals import Measure, Terms, mean

PARTS = ("text", "seed", "interaction")
"""Parts of the variance. The text is a reflection, or the think text of a first image."""


def components(outcomes: Float[np.ndarray, "P N S"]) -> Float[np.ndarray, "P 3"]:
    """Variance components of reflection, seed and interaction, per prompt (random effects; Searle, Casella and
    McCulloch 1992, ch. 4):

        MS_R = S var(row means),  MS_S = N var(column means),  MS_I = sum (y - row - column + all)^2 / ((N-1)(S-1))
        s2_R = (MS_R - MS_I) / S,  s2_S = (MS_S - MS_I) / N,  s2_I = MS_I

    Each is unbiased, so the first two may be below 0. A pair has one outcome, which it determines: the interaction is
    no error. ValueError for fewer than two reflections or seeds.
    """
    _, n, s = outcomes.shape
    if min(n, s) < 2:
        raise ValueError(f"{n} reflections x {s} seeds: two of each are needed to tell them apart")
    rows, columns = outcomes.mean(2), outcomes.mean(1)
    rest = outcomes - rows[:, :, None] - columns[:, None, :] + outcomes.mean((1, 2))[:, None, None]
    interaction = np.square(rest).sum((1, 2)) / ((n - 1) * (s - 1))
    reflection = rows.var(1, ddof=1) - interaction / s
    seed = columns.var(1, ddof=1) - interaction / n
    return np.stack([reflection, seed, interaction], axis=1)


def terms(outcomes: Float[np.ndarray, "P N S"], prompt_ids: list[str]) -> dict[str, Terms]:
    """Share of each part in the variance within prompts, from sums over prompts."""
    parts = components(outcomes)
    total = parts.sum(1)
    return {name: Terms(parts[:, index], total, prompt_ids) for index, name in enumerate(PARTS)}


def shares(outcomes: Float[np.ndarray, "P N S"], prompt_ids: list[str]) -> dict[str, Measure]:
    """These shares with a bootstrap over prompts."""
    return {name: mean(own) for name, own in terms(outcomes, prompt_ids).items()}

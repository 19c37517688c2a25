"""Two-way analysis of variance of image scores. It answers the question: how much of the variance comes from the
reflection (the model's text about what to change), and how much from the random seed? For every pair of a reflection
and a seed, there is one image and one score.

Shape letters: P prompts, N reflections, S seeds.
"""

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.intervals import Measure, Terms, mean

PARTS = ("text", "seed", "interaction")
"""Names of the three components of the variance. `text` stands for the text before the image: the reflection or, for a
first image, the think text (which the model writes before the first image)."""


def components(outcomes: Float[np.ndarray, "P N S"]) -> Float[np.ndarray, "P 3"]:
    """Return, for each prompt, the variance components of reflection, seed and interaction (random effects; Searle,
    Casella and McCulloch 1992, ch. 4). `outcomes` has the score of every pair of a reflection (row) and a seed
    (column):

        MS_R = S var(row means),  MS_S = N var(column means),  MS_I = sum (y - row - column + all)^2 / ((N-1)(S-1))
        s2_R = (MS_R - MS_I) / S,  s2_S = (MS_S - MS_I) / N,  s2_I = MS_I

    Here y is a score, `row` and `column` are the means of its row and its column, and `all` is the mean of all scores
    of the prompt. The columns of the result are s2_R, s2_S and s2_I. All three estimates are unbiased, so s2_R and s2_S
    may be below 0. If the image of a pair were drawn again, the image and its score would be the same. So MS_I contains
    no measurement error, only the interaction of reflection and seed.

    Raises ValueError if there are fewer than two reflections or fewer than two seeds.
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
    """Return a dict with data for the three components of the variance (`text`, `seed`, `interaction`). The share of a
    component in the total variance is a ratio of two sums over prompts. So the `Terms` of a component has, for every
    prompt, the component (numerator) and the total variance (denominator)."""
    parts = components(outcomes)
    total = parts.sum(1)
    return {name: Terms(parts[:, index], total, prompt_ids) for index, name in enumerate(PARTS)}


def shares(outcomes: Float[np.ndarray, "P N S"], prompt_ids: list[str]) -> dict[str, Measure]:
    """Return, for each component (`text`, `seed`, `interaction`), its share of the total variance between the images of
    one prompt. Each share is computed over all prompts, with a bootstrap interval over prompts."""
    return {name: mean(own) for name, own in terms(outcomes, prompt_ids).items()}

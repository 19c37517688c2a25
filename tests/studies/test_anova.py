"""Variance components, against tables made by hand and against their own expectation."""

import numpy as np
import pytest

from irg_rl.studies.anova import components, shares


def test_rows_alone_columns_alone_and_both():
    rows = np.repeat([[0.0], [1.0]], 2, axis=1)
    crossed = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = components(np.stack([rows, rows.T, crossed]))
    assert found[0].tolist() == pytest.approx([0.5, 0, 0]) and found[1].tolist() == pytest.approx([0, 0.5, 0])
    # by hand: means are all 1/2, MS_I = 4 * 1/4 / 1 = 1, and each main effect 0 - 1/2
    assert found[2].tolist() == pytest.approx([-0.5, -0.5, 1.0])


def test_the_estimates_are_unbiased():
    rng = np.random.default_rng(0)
    reflection, seed, both = (rng.normal(scale=scale, size=shape) for scale, shape in (
        (1.0, (20_000, 3, 1)), (0.5, (20_000, 1, 4)), (2.0, (20_000, 3, 4)),
    ))  # fmt: skip
    assert components(reflection + seed + both).mean(0) == pytest.approx([1.0, 0.25, 4.0], abs=0.06)


def test_shares_are_of_the_sum_and_know_their_prompts():
    rows = np.repeat([[0.0], [1.0]], 2, axis=1)
    found = shares(np.stack([rows, rows, rows.T, rows.T]), ["a", "b", "c", "d"])
    assert found["text"].value == pytest.approx(0.5) and found["interaction"].value == 0
    assert found["seed"].low < 0.5 < found["seed"].high and found["seed"].n == 4


def test_one_seed_tells_nothing():
    with pytest.raises(ValueError, match="two of each"):
        components(np.zeros((3, 4, 1)))

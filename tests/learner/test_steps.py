"""How far weights have moved since training began."""

import pytest
import torch

from irg_rl.learner.steps import SAMPLED, WeightSteps


def test_the_tensor_that_moved_most_against_its_own_size_counts():
    weights = {"large": torch.full((4, 4), 10.0), "small": torch.full((3,), 0.1), "adapter": torch.zeros(5)}
    steps = WeightSteps(weights.items())
    assert steps.largest(weights) == 0.0
    weights["large"] += 1.0  # in place, as an optimizer does
    weights["adapter"] += 1.0
    assert steps.largest(weights) == pytest.approx(0.1)
    weights["small"] += 0.05
    assert steps.largest(weights) == pytest.approx(0.5)


def test_a_large_tensor_is_judged_by_a_part_of_it():
    weights = {"w": torch.ones(5, SAMPLED)}
    steps = WeightSteps(weights.items())
    assert len(steps.first["w"]) <= SAMPLED
    weights["w"] *= 1.25
    assert steps.largest(weights) == pytest.approx(0.25)

"""How far weights have moved since training began."""

import pytest
import torch

from irg_rl.learner.steps import SAMPLED, WeightSteps


def test_a_tensor_s_move_is_measured_against_its_own_size():
    weights = {"large": torch.full((4, 4), 10.0), "small": torch.full((3,), 0.1), "adapter": torch.zeros(5)}
    steps = WeightSteps(weights.items())
    assert [steps.of(name, tensor) for name, tensor in weights.items()] == [0.0, 0.0, 0.0]
    for tensor in weights.values():
        tensor += 1.0  # in place, as an optimizer does
    assert steps.of("large", weights["large"]) == pytest.approx(0.1)
    assert steps.of("small", weights["small"]) == pytest.approx(10.0)
    assert steps.of("adapter", weights["adapter"]) == steps.of("unknown", weights["large"]) == 0.0


def test_a_large_tensor_is_judged_by_a_part_of_it():
    weights = {"w": torch.ones(5, SAMPLED)}
    steps = WeightSteps(weights.items())
    assert len(steps.first["w"]) <= SAMPLED
    weights["w"] *= 1.25
    assert steps.of("w", weights["w"]) == pytest.approx(0.25)

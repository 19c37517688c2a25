"""Invariant 1: sampler and learner are the same policy, or the run refuses."""

from dataclasses import replace

import pytest
import torch

from irg_rl.learner.ratio_check import RatioError, check, require_law
from tests.algorithms.test_joint import Plain, shifted


def run(world, trajectories, model=None, clip=1e-3):
    replays = world.replay().packs(trajectories)
    return check(Plain(model or world.model), replays, trajectories, world.law(), clip)


def test_the_table_covers_every_turn_modality_and_step(world):
    trajectories = world.sample(3)
    table = [d.row() for d in run(world, trajectories)]
    places = [(r["modality"], r["turn"], r["step"]) for r in table]
    steps = trajectories[0].images[0].x.shape[0]
    expected = [("image", turn, step) for turn in range(3) for step in range(steps)]
    assert places == expected + [("text", turn, None) for turn in range(3)]
    assert all(0 <= r["mean"] <= r["max"] <= r["limit"] for r in table)
    assert sum(r["count"] for r in table if r["modality"] == "text") == sum(
        len(s.ids) for t in trajectories for s in t.texts
    )


def test_one_wrong_step_is_refused_and_named(world):
    trajectories = world.sample(3)
    image = trajectories[1].images[2]
    image.logprobs[3] += 0.01
    with pytest.raises(RatioError, match=r"image log-probability of turn 2, step 3 .* by 0.01 .*prompt 'p0', sample 1"):
        run(world, trajectories)


def test_one_wrong_token_is_refused_and_named(world):
    trajectories = world.sample(2)
    trajectories[0].texts[1].logprobs[0] -= 2e-4
    with pytest.raises(RatioError, match=r"text log-probability of turn 1 differs .* by 0.0002 \(limit 0.0001"):
        run(world, trajectories)


def test_other_weights_are_another_policy(world):
    with pytest.raises(RatioError, match="different policies"):
        run(world, world.sample(2), shifted(world))


def test_what_was_drawn_by_another_law_is_refused_with_both_values(world):
    trajectories, law = world.sample(2), world.law()
    require_law(trajectories, law)
    with pytest.raises(RatioError, match=r"sample 0 was drawn with temperature 0.9 where the learner has 1.0, dtype"):
        require_law(trajectories, replace(law, temperature=1.0, dtype="bf16"))
    trajectories[1].law = None
    with pytest.raises(RatioError, match="sample 1 carries no law of its sampling"):
        require_law(trajectories, law)


def test_an_undefined_log_probability_is_the_worst_of_all(world):
    trajectories = world.sample(1)
    trajectories[0].images[0].logprobs[1] = torch.nan
    with pytest.raises(RatioError, match="turn 0, step 1 .* by inf"):
        run(world, trajectories)

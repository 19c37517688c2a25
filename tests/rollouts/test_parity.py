"""Incremental sampling and one packed forward are the same policy (invariant 1)."""

import pytest
import torch

from irg_rl.config import NoiseRecipe
from irg_rl.trajectory import Modality
from tests.rollouts.conftest import NOISE, Kit, requests
from tests.rollouts.replay import replay


def worst(kit: Kit, sampler, trajectories) -> dict[Modality, float]:
    """Largest |difference| of log-probabilities per modality."""
    found = {Modality.TEXT: 0.0, Modality.IMAGE: 0.0}
    for trajectory in trajectories:
        again = replay(kit, trajectory, sampler.sampling, sampler.noise)
        for segment, scores in zip(trajectory.segments, again, strict=True):
            assert scores.shape == segment.logprobs.shape
            gap = float((scores - segment.logprobs).abs().max())
            found[segment.modality] = max(found[segment.modality], gap)
    return found


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_sampled_logprobs_equal_one_packed_forward(kit, history, turns):
    sampler = kit.sampler(turns=turns, history=history, is_stop=lambda text: len(text) % 7 == 0)
    trajectories = sampler.sample(requests(6))
    gap = worst(kit, sampler, trajectories)
    assert gap[Modality.TEXT] < 1e-4
    assert gap[Modality.IMAGE] < 2e-5
    assert max(t.turns for t in trajectories) == turns


@pytest.mark.parametrize("kind", ["flow_sde", "dance_sde", "cps"])
@pytest.mark.parametrize("window", ["all", "scattered"])
def test_every_kind_of_noise_is_replayed(kit, kind, window):
    noise = NoiseRecipe(kind=kind, window=window, window_size=2, window_range=(0, 5), noise_level=0.5)
    sampler = kit.sampler(turns=2, noise=noise)
    assert worst(kit, sampler, sampler.sample(requests(2)))[Modality.IMAGE] < 2e-5


def test_system_prompt_temperature_and_shift_are_replayed(kit):
    sampler = kit.sampler(turns=2, system_prompt="there should be", temperature=0.7, shift=3.0)
    gap = worst(kit, sampler, sampler.sample(requests(4)))
    assert gap[Modality.TEXT] < 1e-4
    assert gap[Modality.IMAGE] < 2e-5


def test_a_text_cut_off_at_the_limit_is_closed_in_the_context_without_a_logprob(kit):
    sampler = kit.sampler(turns=2, max_text_tokens=3)
    trajectories = sampler.sample(requests(8))
    cut = [s for t in trajectories for s in t.texts if not s.finished]
    assert cut and all(len(s.ids) == 3 and kit.tokenizer.special.eos not in s.ids.tolist() for s in cut)
    gap = worst(kit, sampler, trajectories)
    assert gap[Modality.TEXT] < 1e-4
    assert gap[Modality.IMAGE] < 2e-5


def test_a_replay_of_another_history_is_noticed(kit):
    sampler = kit.sampler(turns=3, history="last")
    trajectories = sampler.sample(requests(2))
    for trajectory in trajectories:
        trajectory.history = "full"
    assert worst(kit, sampler, trajectories)[Modality.TEXT] > 1e-2


def test_recorded_steps_are_transitions_of_the_recorded_states(kit):
    sampler = kit.sampler(turns=1, noise=NOISE)
    (image,) = sampler.sample(requests(1))[0].images
    assert image.x.shape == (2, 16, 16)
    assert torch.equal(image.x_next[0], image.x[1]), "a window of neighbouring steps is one stretch of the path"
    assert (image.t_next < image.t).all()
    assert not torch.equal(image.x_next, image.mean)

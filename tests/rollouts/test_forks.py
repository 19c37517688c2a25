"""Siblings of a fork are the trajectories that each of them would be alone, and what they share is sampled once."""

import pytest
import torch

from irg_rl.config import GuidanceRecipe, NoiseRecipe
from irg_rl.trajectory import Prompt
from rollouts.request import Request
from tests.rollouts.conftest import requests
from tests.rollouts.test_parity import worst
from tests.rollouts.test_sampler import assert_same, differ, in_thirds

PROMPT = Prompt("p", "a photo of a red circle")


def siblings(forks, count, prompt=PROMPT, seed=0):
    return [Request(prompt, sample, seed=seed, forks=forks) for sample in range(count)]


def shared(one, other):
    """Number of segments that two trajectories have in common, which are the first ones of both."""
    same = [a is b for a, b in zip(one.segments, other.segments)]
    assert same == sorted(same, reverse=True)
    return sum(same)


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("forks", [{1: 3}, {2: 4}, {1: 2, 2: 3}], ids=str)
def test_siblings_are_what_each_of_them_is_alone(kit, history, forks):
    """Alone is the naive path: the same random numbers, every turn of the one row run for this trajectory only."""
    sampler = kit.sampler(turns=4, history=history, is_stop=in_thirds)
    asked = siblings(forks, 12)
    together = sampler.sample(asked)
    assert {t.stopped for t in together} == {True, False}
    for one, request in zip(together, asked):
        assert_same(one, sampler.sample([request])[0])


def test_what_precedes_the_fork_is_one_object_and_what_follows_is_the_siblings_own(kit):
    one, two, other, *_ = trajectories = kit.sampler(turns=3, is_stop=lambda text: False).sample(siblings({1: 2}, 4))
    assert [shared(one, t) for t in trajectories] == [6, 2, 0, 0]
    assert differ(one, two) and differ(one, other)
    assert one.segments[2].ids.tolist() != two.segments[2].ids.tolist()
    assert not torch.equal(one.segments[3].pixels, two.segments[3].pixels)
    assert [s.parent for t in trajectories for s in t.segments] == 4 * [None, 0, 1, 2, 3, 4]


def test_a_fork_of_a_fork_is_a_tree(kit):
    trajectories = kit.sampler(turns=3, is_stop=lambda text: False).sample(siblings({1: 2, 2: 3}, 12))
    assert [shared(trajectories[0], t) for t in trajectories] == [6, 4, 4, 2, 2, 2] + 6 * [0]
    assert [shared(trajectories[8], t) for t in trajectories[6:]] == [4, 4, 6, 2, 2, 2]


def test_the_first_branch_goes_on_with_the_numbers_of_its_trunk(kit):
    """So a trunk is what a trajectory without forks is, and its name depends on no sibling."""
    sampler = kit.sampler(turns=3)
    plain = sampler.sample([Request(PROMPT, sample) for sample in (0, 4)])
    forked = sampler.sample(siblings({1: 2, 2: 2}, 8))
    for one, other in zip(plain, (forked[0], forked[4])):
        assert_same(one, other)


def test_siblings_among_strangers_and_in_any_order_are_the_same(kit):
    sampler = kit.sampler(turns=3, is_stop=in_thirds)
    asked = siblings({1: 2, 2: 2}, 8)
    alone = sampler.sample(asked)
    strangers = requests(5)
    order = [6, 1, 4, 0, 7, 2, 5, 3]
    mixed = sampler.sample([strangers[0], *(asked[i] for i in order), *strangers[1:]])
    for place, trajectory in zip(order, mixed[1:9]):
        assert_same(alone[place], trajectory)
    for one, other in zip(sampler.sample(strangers), [mixed[0], *mixed[9:]]):
        assert_same(one, other)
    assert shared(mixed[1], mixed[5]) >= 2, "samples 6 and 7 share their first turn though others stand between"


def test_groups_of_other_prompts_or_seeds_share_nothing(kit):
    asked = [*siblings({1: 2}, 2), *siblings({1: 2}, 2, seed=1), *siblings({1: 2}, 2, Prompt("q", PROMPT.text))]
    drawn = kit.sampler(turns=2).sample(asked)
    assert [shared(drawn[0], t) for t in drawn[1:]] == [2, 0, 0, 0, 0]


def test_a_trunk_that_stops_before_its_fork_gives_its_siblings_one_and_the_same_answer(kit):
    drawn = kit.sampler(turns=3, is_stop=in_thirds).sample(siblings({2: 2}, 16))
    pairs = list(zip(drawn[0::2], drawn[1::2]))
    stopped = [one for one, other in pairs if one.segments[-1] is other.segments[-1]]
    assert 0 < len(stopped) < len(pairs)
    assert all(t.stopped and t.turns == 1 for t in stopped)


def test_what_siblings_share_goes_through_the_model_once(kit, monkeypatch):
    """Rows of every denoising step and of every image that is put into a context."""
    drawn, seen = [], []
    drawing, prefill = kit.model.drawing, kit.model.prefill_image

    def count_drawing(*laid_out):
        velocity = drawing(*laid_out)

        def counted(x, t):
            drawn.append(len(x))
            return velocity(x, t)

        return counted

    def count_prefill(cache, clean, *rest):
        seen.append(len(clean))
        return prefill(cache, clean, *rest)

    monkeypatch.setattr(kit.model, "drawing", count_drawing)
    monkeypatch.setattr(kit.model, "prefill_image", count_prefill)
    kit.sampler(turns=3, is_stop=lambda text: False).sample(siblings({1: 2, 2: 3}, 12))
    assert drawn == 5 * [2] + 5 * [4] + 5 * [12]
    assert seen == [2, 4]


@pytest.mark.parametrize("history", ["last", "full"])
def test_the_packed_forward_of_a_whole_trajectory_gives_what_was_sampled(kit, history):
    sampler = kit.sampler(turns=3, history=history, noise=NoiseRecipe(window="all", shared_start=True))
    gap = worst(kit, sampler, sampler.sample(siblings({1: 2, 2: 2}, 8)))
    assert max(gap.values()) < 2e-5


def test_guided_siblings_are_what_each_of_them_is_alone(kit):
    guidance = GuidanceRecipe(text_scale=3.0, image_scale=1.5)
    sampler = kit.sampler(turns=3, noise=None, guidance=guidance, history="full")
    asked = siblings({2: 2}, 4)
    for one, request in zip(sampler.sample(asked), asked):
        assert_same(one, sampler.sample([request])[0], 1e-4)


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="give parts or forks, not both"):
        Request(PROMPT, forks={1: 2}, think="a red circle")
    with pytest.raises(ValueError, match=r"turns 1 and up, given at turns \[0\]"):
        Request(PROMPT, forks={0: 2})

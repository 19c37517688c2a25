"""What a batch of trajectories promises: independence, stops, given parts, seeds."""

import pytest
import torch

from irg_rl.config import GuidanceRecipe, NoiseRecipe
from irg_rl.trajectory import ImageSegment, Prompt, TextSegment, Trajectory
from rollouts.request import Request, StopPhrase
from tests.rollouts.conftest import requests


def assert_same(one: Trajectory, other: Trajectory, tolerance: float = 1e-5) -> None:
    """Equal up to rounding: tokens and pixels exactly (pixels: by one at a rounding edge), floats within tolerance."""
    assert (one.prompt.id, one.sample, one.stopped) == (other.prompt.id, other.sample, other.stopped)
    assert len(one.segments) == len(other.segments)
    for mine, theirs in zip(one.segments, other.segments):
        assert (mine.turn, mine.parent, mine.modality) == (theirs.turn, theirs.parent, theirs.modality)
        torch.testing.assert_close(mine.logprobs, theirs.logprobs, atol=tolerance, rtol=tolerance)
        if isinstance(mine, TextSegment):
            assert mine.ids.tolist() == theirs.ids.tolist()
            assert (mine.text, mine.finished, mine.stop) == (theirs.text, theirs.finished, theirs.stop)
        else:
            assert (mine.pixels.int() - theirs.pixels.int()).abs().max() <= 1
            for name in ("x", "x_next", "mean", "t", "t_next"):
                a, b = vars(mine)[name], vars(theirs)[name]
                torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def differ(one: Trajectory, other: Trajectory) -> bool:
    """Whether two trajectories hold other tokens or other pictures."""
    if len(one.segments) != len(other.segments):
        return True
    return any(
        a.ids.tolist() != b.ids.tolist() if isinstance(a, TextSegment) else not torch.equal(a.pixels, b.pixels)
        for a, b in zip(one.segments, other.segments)
    )


def in_thirds(text: str) -> bool:
    return len(text) % 3 == 0


def test_a_batch_of_sixteen_gives_what_sixteen_batches_of_one_give(kit):
    sampler = kit.sampler(is_stop=in_thirds)
    asked = requests(16)
    for one, request in zip(sampler.sample(asked), asked):
        assert_same(one, sampler.sample([request])[0])


def test_order_does_not_matter(kit):
    sampler = kit.sampler(is_stop=in_thirds, history="full")
    asked = requests(10)
    order = [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
    straight = sampler.sample(asked)
    for place, shuffled in zip(order, sampler.sample([asked[i] for i in order])):
        assert_same(straight[place], shuffled)


def test_the_same_batch_is_the_same_bit_for_bit(kit):
    sampler = kit.sampler()
    for one, other in zip(sampler.sample(requests(4)), sampler.sample(requests(4))):
        assert_same(one, other, 0.0)
        assert not differ(one, other)


def test_seed_prompt_id_and_sample_each_change_the_trajectory(kit):
    sampler = kit.sampler(turns=1)
    base = Request(Prompt("a", "one star"))
    others = [
        Request(Prompt("a", "one star"), seed=1),
        Request(Prompt("b", "one star")),
        Request(Prompt("a", "one star"), sample=1),
    ]
    first, *rest = sampler.sample([base, *others])
    assert all(differ(first, other) for other in rest)


def test_segments_alternate_and_continue_each_other(kit):
    (trajectory,) = kit.sampler(turns=3).sample(requests(1))
    kinds = [(type(s), s.turn) for s in trajectory.segments]
    assert kinds == [(kind, turn) for turn in range(3) for kind in (TextSegment, ImageSegment)]
    assert [s.parent for s in trajectory.segments] == [None, 0, 1, 2, 3, 4]
    assert [s.text for s in trajectory.texts] == [
        kit.tokenizer.decode([i for i in s.ids.tolist() if i != kit.tokenizer.special.eos]) for s in trajectory.texts
    ]


def test_a_reflection_that_wants_no_change_ends_its_trajectory_and_no_other(kit):
    trajectories = kit.sampler(turns=3, is_stop=in_thirds).sample(requests(16))
    stopped = [t for t in trajectories if t.stopped]
    assert 0 < len(stopped) < len(trajectories)
    for trajectory in stopped:
        last = trajectory.segments[-1]
        assert isinstance(last, TextSegment) and last.stop and last.turn == trajectory.turns >= 1
    assert all(t.turns == 3 and not t.texts[-1].stop for t in trajectories if not t.stopped)
    assert not any(t.texts[0].stop for t in trajectories), "a think text never stops a trajectory"


def test_the_stop_phrase_is_found_in_any_case_at_the_end_of_a_sentence():
    assert StopPhrase("nothing to change")("All is right: Nothing to change.")
    assert not StopPhrase("nothing to change")("the star is missing")
    assert StopPhrase("no edits needed")("No edits needed")
    assert not StopPhrase("nothing to change")("Nothing to change in the sky, but the dog must be red.")


def test_a_sampler_stops_at_the_phrase_of_its_settings(kit):
    content = [Request(Prompt("p", "a red circle"), think="a plan", reflections={1: "No edits needed."})]
    usual, own = (
        kit.sampler(noise=None, **more).sample(content, 2)[0] for more in ({}, {"stop_phrase": "no EDITS needed"})
    )
    assert (usual.stopped, usual.turns) == (False, 2) and (own.stopped, own.turns) == (True, 1)


def test_evaluation_records_no_steps_and_draws_by_the_ode(kit):
    quiet = kit.sampler(turns=2, noise=None)
    one, other = (s.sample(requests(2)) for s in (quiet, kit.sampler(turns=2)))
    for trajectory in one:
        for image in trajectory.images:
            assert image.x.shape == image.x_next.shape == image.mean.shape == (0, 16, 16)
            assert image.t.shape == image.logprobs.shape == (0,)
    assert one[0].texts[0].ids.tolist() == other[0].texts[0].ids.tolist()
    assert not torch.equal(one[0].images[0].pixels, other[0].images[0].pixels), "noise moves the image"


def test_siblings_share_the_window_and_groups_do_not_all(kit):
    trajectories = kit.sampler(turns=2).sample(requests(16))
    windows = [[tuple(image.t.tolist()) for image in t.images] for t in trajectories]
    assert windows[0::2] == windows[1::2]
    assert len({window for row in windows for window in row}) > 1


def test_only_what_a_single_forward_can_replay_carries_the_law_of_its_sampling(kit):
    guidance = GuidanceRecipe(text_scale=2.0)
    assert kit.sampler().sample(requests(1))[0].law.noise_level == 0.7
    assert kit.sampler(noise=None).sample(requests(1))[0].law is None
    assert kit.sampler(guidance=guidance).sample(requests(1))[0].law is None


def test_images_that_are_trained_as_they_are_have_no_steps_and_leave_the_law_to_the_texts(kit):
    ways = {"noise": {}, "ode": {"noise": None}, "guided": {"guidance": GuidanceRecipe(text_scale=2.0)}}
    for parts in ways.values():
        (trajectory,) = kit.sampler(record_steps=False, **parts).sample(requests(1))
        law = trajectory.law
        assert (law.temperature, law.kind, law.noise_level, law.t_second) == (1.0, None, None, None)
        for image in trajectory.images:
            assert image.x.shape[0] == image.logprobs.shape[0] == 0
            shown = kit.sampler().codec.decode(image.drawn[None], image.grid)[0]
            assert torch.equal(shown, image.pixels)
    recorded, bare = (kit.sampler(record_steps=on).sample(requests(1))[0] for on in (True, False))
    assert torch.equal(recorded.images[-1].pixels, bare.images[-1].pixels)


def test_a_shared_start_leaves_siblings_the_noise_of_trained_steps_alone(kit):
    def first_steps(shared: bool):
        noise = NoiseRecipe(window="first", window_size=1, shared_start=shared)
        siblings = [Request(Prompt("p", "a red circle"), sample, think="a red circle") for sample in range(3)]
        drawn = kit.sampler(noise=noise, turns=1).sample(siblings)
        return [trajectory.images[0] for trajectory in drawn]

    own, shared = first_steps(False), first_steps(True)
    assert all(not torch.equal(own[0].x, other.x) for other in own[1:])
    assert all(torch.equal(shared[0].x, other.x) for other in shared[1:])
    assert all(not torch.equal(shared[0].x_next, other.x_next) for other in shared[1:])
    assert torch.equal(shared[0].x, own[0].x)


def test_given_think_and_image_take_the_place_of_sampled_ones(kit):
    sampler = kit.sampler(turns=2)
    own = sampler.sample(requests(4))
    asked = [Request(t.prompt, t.sample, think=t.texts[0].ids, first_image=t.images[0].pixels) for t in own]
    again = sampler.sample(asked)
    for one, other in zip(own, again):
        assert other.texts[0].ids.tolist() == one.texts[0].ids.tolist()
        assert other.texts[0].finished == one.texts[0].finished
        assert other.texts[0].logprobs.isnan().all(), "given tokens were not sampled"
        assert other.images[0].x.shape[0] == 0
        assert torch.equal(other.images[0].pixels, one.images[0].pixels)
        torch.testing.assert_close(other.images[0].latent, one.images[0].latent, atol=1e-5, rtol=0)
        # from the reflection on everything is as it was: the context is the same
        assert other.texts[1].ids.tolist() == one.texts[1].ids.tolist()
        torch.testing.assert_close(other.images[1].x, one.images[1].x, atol=1e-4, rtol=0)


def test_given_and_sampled_texts_mix_in_one_batch(kit):
    sampler = kit.sampler(turns=2)
    plain = requests(4)
    free = sampler.sample(plain)
    given = Request(plain[1].prompt, plain[1].sample, think="one star", reflections={1: "add a blue square"})
    mixed = sampler.sample([plain[0], given, *plain[2:]])
    assert mixed[1].texts[0].text == "one star"
    assert mixed[1].texts[1].text == "add a blue square"
    assert mixed[1].texts[1].ids[-1] == kit.tokenizer.special.eos
    for index in (0, 2, 3):
        assert_same(mixed[index], free[index])


def test_a_given_reflection_is_read_by_the_image_after_it(kit):
    sampler = kit.sampler(turns=2, noise=None)
    prompt = Prompt("a", "one star")
    one, other = sampler.sample(
        [Request(prompt, reflections={1: text}) for text in ("add a blue square", "three circles")]
    )
    assert torch.equal(one.images[0].pixels, other.images[0].pixels)
    assert not torch.equal(one.images[1].pixels, other.images[1].pixels)


def test_a_given_stop_stops(kit):
    (trajectory,) = kit.sampler(turns=3).sample(
        [Request(Prompt("a", "one star"), reflections={1: "Nothing to change."})]
    )
    assert trajectory.stopped and trajectory.turns == 1


def test_a_first_image_of_another_size_is_taken(kit):
    picture = torch.randint(0, 256, (16, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    asked = requests(3)
    (a, b, c) = kit.sampler(turns=2).sample([asked[0], Request(Prompt("x", "one star"), first_image=picture), asked[2]])
    assert b.images[0].grid == (2, 6) and b.images[0].latent.shape == (12, 16)
    assert b.images[1].grid == (4, 4)
    assert_same(a, kit.sampler(turns=2).sample([asked[0]])[0])
    assert c.turns == 2


def test_a_reflection_of_turn_zero_is_refused():
    with pytest.raises(ValueError, match="turns 1 and up"):
        Request(Prompt("a", "one star"), reflections={0: "x"})


def test_an_image_size_that_does_not_fit_the_latent_tokens_is_refused(kit):
    with pytest.raises(ValueError, match="multiples of 8"):
        kit.sampler(image_size=(30, 32))


def test_no_requests_give_no_trajectories_and_no_turns_are_refused(kit):
    assert kit.sampler().sample([]) == []
    with pytest.raises(ValueError, match="turns is 0"):
        kit.sampler().sample(requests(1), turns=0)

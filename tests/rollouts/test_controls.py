"""Controls start from the same first image and change one thing each."""

import pytest
import torch

from irg_rl.trajectory import ImageSegment, Prompt, TextSegment
from rollouts.controls import redraw, shuffled_reflections
from rollouts.request import Request
from tests.rollouts.conftest import CORPUS, requests

SEED = 3


def stops(text: str) -> bool:
    return len(text) % 4 == 0


@pytest.fixture(scope="module")
def arm(kit):
    sampler = kit.sampler(noise=None, is_stop=stops, turns=3)
    return sampler, sampler.sample(requests(8, seed=SEED))


def test_a_redraw_is_a_first_image_from_the_same_think_text_with_new_noise(arm):
    sampler, real = arm
    control = redraw(sampler.sample, real, turns=3, seed=SEED)
    for mine, theirs in zip(control, real, strict=True):
        assert mine.segments[:2] == theirs.segments[:2]
        assert [(type(s), s.turn) for s in mine.segments[2:]] == [(ImageSegment, 1), (ImageSegment, 2)]
        first, second, third = (image.pixels for image in mine.images)
        assert not torch.equal(first, second) and not torch.equal(second, third)
    think = real[0].texts[0].ids
    (again,) = sampler.sample([Request(real[0].prompt, real[0].sample, seed=99, think=think)], 1)
    assert not torch.equal(again.images[0].pixels, control[0].images[1].pixels), "the redraw has a seed of its own"
    assert all(isinstance(t.segments[2], TextSegment) for t in real), "the real arm stays as it was"


def test_shuffled_reflections_come_from_other_prompts_and_of_the_same_turn(arm):
    sampler, real = arm
    control = shuffled_reflections(sampler.sample, real, turns=2, seed=SEED)
    told = {(t.prompt.id, s.turn, s.text) for t in real for s in t.texts}
    swapped = 0
    for mine, theirs in zip(control, real, strict=True):
        assert torch.equal(mine.images[0].pixels, theirs.images[0].pixels)
        assert mine.texts[0].ids.tolist() == theirs.texts[0].ids.tolist()
        own, said = theirs.texts[1], mine.texts[1]
        assert own.stop == said.stop, "both arms draw equally often"
        if not own.stop:
            swapped += 1
            assert said.text != own.text
            assert any((prompt, 1, said.text) in told for prompt in {t.prompt.id for t in real} - {mine.prompt.id})
    assert swapped > 1


def test_the_shuffled_arm_differs_by_its_reflections_alone(arm):
    """Lending every trajectory its own reflection gives the real arm back: same noise, same context."""
    sampler, real = arm
    asked = [
        Request(
            t.prompt,
            t.sample,
            seed=SEED,
            think=t.texts[0].ids,
            first_image=t.images[0].pixels,
            reflections={s.turn: s.ids for s in t.texts if s.turn},
        )
        for t in real
    ]
    for mine, theirs in zip(sampler.sample(asked, 3), real, strict=True):
        assert mine.turns == theirs.turns and mine.stopped == theirs.stopped
        for one, other in zip(mine.images, theirs.images):
            assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1


def test_one_prompt_has_nobody_to_borrow_from(kit):
    sampler = kit.sampler(noise=None, turns=2)
    alone = sampler.sample([Request(Prompt("only", CORPUS[0]), sample=i) for i in range(2)])
    with pytest.raises(ValueError, match="take two or more"):
        shuffled_reflections(sampler.sample, alone, turns=2, seed=0)


def test_where_nobody_asks_for_a_change_the_control_stops_like_the_real_arm(kit):
    sampler = kit.sampler(noise=None, turns=2, is_stop=lambda text: True)
    real = sampler.sample(requests(4))
    control = shuffled_reflections(sampler.sample, real, turns=2, seed=0)
    assert all(t.stopped and t.turns == 1 and isinstance(t.segments[-1], TextSegment) for t in control)

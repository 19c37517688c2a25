"""Controls that tell refinement from drawing again: the same first images, another second act.

A model that ignores what it drew and what it said repairs its failures too, as often as a new draw happens to be right.
Each control gives one trajectory per trajectory of the real arm, with the same prompt, think text and first image.

`Sample` is any way to sample requests: `Sampler.sample`, a batched or a remote one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from irg_rl.errors import InputError
from irg_rl.trajectory import TextSegment, Trajectory
from rollouts.noise import hashed
from rollouts.request import Request

Sample = Callable[[list[Request], int], list[Trajectory]]


def redraw(sample: Sample, trajectories: Sequence[Trajectory], turns: int, seed: int) -> list[Trajectory]:
    """Plain redraw: the image of every turn k >= 1 is a first image, drawn anew from prompt and think text."""
    controls = [replace(t, segments=t.segments[:2], stopped=False, rewards={}) for t in trajectories]
    for turn in range(1, turns):
        fresh = hashed(seed, "redraw", turn) % 2**63
        requests = [Request(t.prompt, t.sample, seed=fresh, think=t.texts[0].ids) for t in trajectories]
        for control, drawn in zip(controls, sample(requests, 1), strict=True):
            image = drawn.images[0]
            control.segments = [*control.segments, replace(image, turn=turn)]
    return controls


def shuffled_reflections(sample: Sample, trajectories: Sequence[Trajectory], turns: int, seed: int) -> list[Trajectory]:
    """Every reflection that asked for a change is replaced by one of the same turn from another prompt (of another turn
    where there is none). Where the real trajectory stopped, so does the control: both arms redraw equally often, and
    what differs is what the reflection says. `seed` is the real arm's, so the noise is the same too.

    Raises InputError when all trajectories answer one prompt.
    """
    if len({t.prompt.id for t in trajectories}) < 2:
        raise InputError("reflections can only be shuffled among two prompts or more")
    pool = [(t.prompt.id, text) for t in trajectories for text in t.texts if text.turn]
    requests = [
        Request(
            t.prompt,
            t.sample,
            seed=seed,
            think=t.texts[0].ids,
            first_image=t.images[0].pixels,
            reflections={text.turn: _borrowed(text, t, pool, seed).ids for text in t.texts if 0 < text.turn < turns},
        )
        for t in trajectories
    ]
    return sample(requests, turns)


def _borrowed(own: TextSegment, of: Trajectory, pool: list[tuple[str, TextSegment]], seed: int) -> TextSegment:
    """The reflection to put in the place of `own`: its own if it stops, else one from another prompt."""
    if own.stop:
        return own
    others = [text for prompt_id, text in pool if prompt_id != of.prompt.id]
    asking = [text for text in others if not text.stop]
    same_turn = [text for text in asking if text.turn == own.turn]
    candidates = same_turn or asking or others
    if not candidates:
        raise InputError(f"no other prompt has a reflection to lend to prompt {of.prompt.id!r}: take more prompts")
    choice = random.Random(hashed(seed, "lend", of.prompt.id, of.sample, own.turn))
    return choice.choice(candidates)

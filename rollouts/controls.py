"""Controls that show whether refinement does more than just drawing the image again. Even a model that ignores its
image and its reflection repairs some wrong images: a new image is sometimes right by chance. The controls measure this
effect.

For each real trajectory, a control makes one trajectory with the same prompt, think text and first image. Everything
after the first image is changed.

`SampleRequests` is the type of a function that samples requests. `Sampler.sample` is such a function. Other versions
work in batches or on other machines.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from irg_rl.errors import InputError
from irg_rl.trajectory import TextSegment, Trajectory
from rollouts.noise import hashed
from rollouts.request import Request

SampleRequests = Callable[[list[Request], int], list[Trajectory]]


def redraw(sample: SampleRequests, trajectories: Sequence[Trajectory], turns: int, seed: int) -> list[Trajectory]:
    """Return the trajectories of the control "redraw", one per given trajectory. This control shows how many images
    become right simply because a new image is drawn. The first image is kept. In every later turn, a new image is
    drawn. The model then sees only the prompt and the think text, no reflection and no older image.

    `sample` is the function that samples requests. `turns` is the number of images per trajectory. `seed` determines
    the noise of the new images.
    """
    controls = [replace(t, segments=t.segments[:2], stopped=False, rewards={}) for t in trajectories]
    for turn in range(1, turns):
        fresh = hashed(seed, "redraw", turn) % 2**63
        requests = [Request(t.prompt, t.sample, seed=fresh, think=t.texts[0].ids) for t in trajectories]
        for control, drawn in zip(controls, sample(requests, 1), strict=True):
            image = drawn.images[0]
            control.segments = [*control.segments, replace(image, turn=turn)]
    return controls


def shuffled_reflections(
    sample: SampleRequests, trajectories: Sequence[Trajectory], turns: int, seed: int
) -> list[Trajectory]:
    """Return the trajectories of the control "shuffled reflections", one per given trajectory. The first image is kept.
    A reflection that says "nothing to change" is kept, too. Every other reflection is replaced by a reflection from
    another prompt, of the same turn if possible. Then the later images are drawn again.

    The control stops in the turn where the given trajectory stopped. So the two trajectories have equally many images,
    and only the content of their reflections differs. The caller must pass the `seed` of the given trajectories. The
    new trajectories then have the same noise. Raises InputError if all trajectories belong to one prompt.
    """
    if len({t.prompt.id for t in trajectories}) < 2:
        raise InputError("reflections are swapped between prompts, and there is one prompt: take two or more")
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
    """Return the reflection that replaces the reflection `own`. If `own` stops the trajectory, it is returned
    unchanged. Otherwise a reflection from another prompt is returned."""
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

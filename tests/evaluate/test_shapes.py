"""The world's own verifier and reflection check through the whole evaluation."""

import random

import torch

from irg_rl.evaluate import metrics, outcomes, shapes
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import STOP, reflect, think_text
from irg_rl.trajectory import ImageSegment, Prompt, Trajectory
from tests.evaluate.pixels import image, text


def drawn(turn: int, pixels) -> ImageSegment:
    segment = image(turn, False, 0)
    segment.pixels = torch.from_numpy(pixels)
    return segment


def teacher_trajectory(prompt: Prompt, rng: random.Random, truthful: bool) -> Trajectory:
    """A corrupted first image, then one mended by the teacher, then a stop; a liar stops at once instead."""
    first = render(corrupt(sample_scene(prompt.metadata, rng), prompt.metadata, rng, n_defects=1))
    think = [text(0, think_text(prompt.metadata)), drawn(0, first)]
    if not truthful:
        return Trajectory(prompt, 0, [*think, text(1, STOP, stop=True)], stopped=True)
    words, edits = reflect(read(first), prompt.metadata, rng, max_fixes=None)
    mended = apply_edits(first, read(first), edits, rng)
    return Trajectory(prompt, 0, [*think, text(1, words), drawn(1, mended), text(2, STOP, stop=True)], stopped=True)


def test_the_teacher_repairs_and_tells_the_truth_and_a_liar_does_not():
    rng, prompts = random.Random(0), make_prompts(24, "test", seed=0)

    def measured(truthful: bool) -> outcomes.Outcomes:
        trajectories = [teacher_trajectory(prompt, rng, truthful) for prompt in prompts]
        return outcomes.collect(
            trajectories, shapes.verify, turns=3, arm="real", seed=0, check_reflection=shapes.check_reflection
        )

    teacher, liar = measured(True), measured(False)
    assert metrics.accuracy(teacher, 0).value <= 0.2
    assert metrics.repair(teacher, 2).value == 1.0 and metrics.damage(teacher, 2).top.sum() == 0
    assert metrics.reflection_accuracy(teacher, 1).value == 1.0 and metrics.reflection_accuracy(teacher, 2).value == 1.0
    assert metrics.reflection_accuracy(liar, 1).value <= 0.2 and metrics.repair(liar, 2).value == 0.0
    assert ((teacher.score == 1.0) == teacher.correct).all()


def test_no_images_are_no_verdicts():
    assert shapes.verify([], []) == []

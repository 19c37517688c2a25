"""The shapes world as a task: its verdicts and its check of reflections through the whole evaluation."""

import random

import numpy as np
import torch

from irg_rl.evaluate import metrics, outcomes
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.settings import ShapesSettings
from irg_rl.shapes_world.task import ShapesWorld
from irg_rl.shapes_world.teacher import STOP, reflect, think_text
from irg_rl.trajectory import ImageSegment, Prompt, Trajectory
from tests.evaluate.pixels import image, text
from tests.shapes_world.worlds import TASK


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
            trajectories, TASK.verdicts, turns=3, arm="real", seed=0, check_reflection=TASK.check_reflection
        )

    teacher, liar = measured(True), measured(False)
    assert metrics.accuracy(teacher, 0).value <= 0.2
    assert metrics.repair(teacher, 2).value == 1.0 and metrics.damage(teacher, 2).top.sum() == 0
    assert metrics.reflection_accuracy(teacher, 1).value == 1.0 and metrics.reflection_accuracy(teacher, 2).value == 1.0
    assert metrics.reflection_accuracy(liar, 1).value <= 0.2 and metrics.repair(liar, 2).value == 0.0
    assert ((teacher.score == 1.0) == teacher.correct).all()


def test_no_images_are_no_verdicts():
    assert TASK.verdicts([], []) == []


def test_what_it_cannot_judge_has_no_verdict():
    [prompt] = make_prompts(1, "test", seed=0)
    cat, large = Prompt("mine", "a photo of a cat"), np.zeros((64, 96, 3), np.uint8)
    right = render(sample_scene(prompt.metadata, random.Random(0)))
    foreign, known, too_large = TASK.verdicts([right, right, large], [cat, prompt, prompt])
    assert (foreign, too_large) == (None, None) and known is not None and known.correct
    assert TASK.judges(prompt) and not TASK.judges(cat)
    assert TASK.check_reflection(STOP, large, prompt) is None and TASK.check_reflection(STOP, right, cat) is None
    assert TASK.check_reflection(STOP, right, prompt) is True
    assert not ShapesWorld(ShapesSettings(), 0, (64, 96)).judges(prompt)


def test_prompts_are_as_many_as_the_settings_say_or_as_are_asked_for():
    few = ShapesWorld(ShapesSettings(test_prompts=5), 3, (24, 24))
    assert few.prompts("test") == make_prompts(5, "test", 3)
    assert few.prompts("test", 7) == make_prompts(7, "test", 3)

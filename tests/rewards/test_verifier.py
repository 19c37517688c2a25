"""The task's verdict as a scorer: it scores pixels and never guesses."""

import random

import numpy as np
import pytest

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.verifier import VerifierScorer


def test_right_pictures_score_one_and_damaged_ones_their_graded_score():
    rng = random.Random(0)
    prompts = make_prompts(40, "train", seed=1)
    right = [sample_scene(prompt.metadata, rng) for prompt in prompts]
    wrong = [corrupt(scene, prompt.metadata, rng, 1) for scene, prompt in zip(right, prompts)]
    verifier = VerifierScorer("shapes_world", {}, 0, (24, 24))
    assert verifier.score([render(scene) for scene in right], prompts) == [1.0] * 40
    expected = [judge(scene_reading(scene), prompt.metadata).score for scene, prompt in zip(wrong, prompts)]
    scores = verifier.score([render(scene) for scene in wrong], prompts)
    assert scores == expected
    assert max(scores) < 1
    accuracy = VerifierScorer("shapes_world", {}, 0, (24, 24), right=1.0, graded=0.0)
    assert accuracy.score([render(scene) for scene in (right[0], *wrong)], prompts[:1] + prompts) == [1.0] + [0.0] * 40


def test_a_right_picture_gets_what_is_added_for_right_ones():
    [prompt] = make_prompts(1, "train", seed=1)
    fine = sample_scene(prompt.metadata, random.Random(0))
    images = [render(fine), render(corrupt(fine, prompt.metadata, random.Random(0), 1))]
    plain, more = (VerifierScorer("shapes_world", {}, image_size=(24, 24), right=right) for right in (0.0, 0.5))
    (right, wrong), found = plain.score(images, [prompt] * 2), more.score(images, [prompt] * 2)
    assert found == [right + 0.5, wrong]


def test_what_it_cannot_judge_is_a_failure_and_the_rest_is_scored():
    [prompt] = make_prompts(1, "train", seed=1)
    picture = render(sample_scene(prompt.metadata, random.Random(0)))
    verifier = VerifierScorer("shapes_world", {}, 0, (24, 24))
    assert verifier.score([picture, picture], [Prompt("mine", "a photo of a cat"), prompt]) == [None, 1.0]
    assert "'mine'" in verifier.last_error
    assert verifier.score([np.zeros((64, 64, 3), np.uint8), picture], [prompt, prompt]) == [None, 1.0]
    assert "not 24 x 24" in verifier.last_error
    assert verifier.score([], []) == []


def test_a_task_of_ones_own_is_scored_by_its_own_verdict():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 250, np.uint8)
    verifier = VerifierScorer("tests.tasks.bright:Bright", {"limit": 0.5}, 0, (8, 8))
    assert verifier.score([dark, bright], [Prompt("a", "a wall")] * 2) == pytest.approx([10 / 255, 250 / 255])


def test_a_task_whose_verdicts_come_from_a_scorer_names_that_one():
    options = {"file": "prompts.jsonl", "verdict": {"scorer": "judge"}}
    with pytest.raises(ScorerUnavailable, match="the task prompts takes its verdicts from the scorer 'judge'"):
        VerifierScorer("prompts", options)

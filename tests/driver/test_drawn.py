"""What the alarms watch, on groups made by hand."""

import numpy as np
import pytest
import torch

from irg_rl.driver.drawn import copied, different_reflections, distance, drawn_statistics, scored_statistics
from irg_rl.trajectory import Group
from tests.driver.test_critic import BRIGHTNESS, CHANGE, FLAKY, WORDY, critic, painted


def said(group: Group, *texts: str) -> Group:
    """The group with these reflections of turn 1."""
    for trajectory, text in zip(group.trajectories, texts, strict=True):
        trajectory.segments[2].text = text
    return group


def test_copies_are_sequences_of_three_words_that_the_prompt_has():
    assert copied("please draw a red cat now", "draw a red cat") == 0.5  # 2 of 4
    assert copied("a cat", "a cat") == 0.0


def test_the_distance_of_images_is_the_root_of_their_mean_squared_difference():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert distance([black, white]) == pytest.approx(1.0) and distance([white, white, white]) == 0.0
    half = np.concatenate([black[:2], white[2:]])
    by_pairs = np.sqrt(np.mean([np.mean((a / 255.0 - b / 255.0) ** 2) for a, b in
                                [(black, white), (black, half), (white, half)]]))  # fmt: skip
    assert distance([black, white, half]) == pytest.approx(by_pairs)
    assert np.isnan(distance([black, np.zeros((8, 8, 3), np.uint8)]))


def test_reflections_that_end_the_trajectory_are_not_compared():
    group = said(painted([51, 102], [51, 204], [10, 20]), "move it", "move it", "paint it")
    texts = [text for trajectory in group.trajectories for text in trajectory.texts]
    assert different_reflections(texts) == pytest.approx(2 / 3)
    group.trajectories[2].text(2).stop = True
    assert different_reflections([t for one in group.trajectories for t in one.texts]) == 0.5


def test_a_group_of_grey_images_has_known_statistics_and_shared_images_count_once():
    group = painted([51, 102], [51, 204])
    group.trajectories[1].segments[:2] = group.trajectories[0].segments[:2]
    found = drawn_statistics(group)
    assert found["drawn/dark_share"] == pytest.approx(1 / 3) and found["drawn/colour_entropy"] == 0.0
    assert found["drawn/image_diversity"] == pytest.approx(102 / 255)  # of turn 1: turn 0 has one image
    assert "drawn/edge_density" not in found  # these images have sides of two pixels
    assert found["drawn/text_length"] > 0 and 0 <= found["drawn/repetition"] <= 1


def test_only_so_many_images_of_a_group_are_measured():
    group = painted(*[[0 if number % 3 else 255] for number in range(60)])
    assert drawn_statistics(group)["drawn/dark_share"] == pytest.approx(10 / 15)


def test_the_reward_has_all_rewarded_scorers_and_the_held_out_ones_are_apart():
    judge = critic(BRIGHTNESS, CHANGE, WORDY | {"held_out": True}, scheme="factorised")
    told, _ = judge.score_group(painted([51, 102], [51, 204]))
    assert told.watched["drawn/reward"] == pytest.approx((0.4 + 0.8) / 2 + (0.2 + 0.6) / 2)
    assert told.watched["held_out/truth"] == pytest.approx(-(0.2 + 0.2 + 0.4 + 0.8) / 4)  # stops are reflections too
    assert "held_out/change" not in told.watched and "held_out/brightness" not in told.watched


def test_a_held_out_scorer_counts_last_images_and_leaves_its_failures_out():
    told, _ = critic(BRIGHTNESS, FLAKY | {"held_out": True}).score_group(painted([51, 102], [0, 51], [51, 0]))
    assert told.watched["held_out/flaky"] == pytest.approx((0.4 + 0.2) / 2)
    group = painted([51])
    assert scored_statistics(group, ["unused"], 0.5, {}) == {"drawn/reward": 0.5}


def test_statistics_draw_no_random_numbers():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    drawn_statistics(painted([51, 102], [0, 204]))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()

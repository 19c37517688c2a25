"""The critic on groups made by hand, with scorers whose answers are known."""

from dataclasses import replace

import pytest
import torch

from irg_rl import credit
from irg_rl.algorithms.dpo import Preferences
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.config import DPORecipe
from irg_rl.driver.collector import OF_PAIRS
from irg_rl.driver.critic import CreditSettings, Critic
from irg_rl.driver.rl_loop import collector_of, summary
from irg_rl.trajectory import Group
from tests.driver.begun import begun_run
from tests.test_credit import PROMPT, sample

BRIGHTNESS = {"name": "brightness", "kind": "tests.rewards.scorers:Brightness"}
FLAKY = {"name": "flaky", "kind": "tests.rewards.scorers:Flaky", "failures": 0}  # black images always fail


def critic(*specs: dict, scheme: str = "turn") -> Critic:
    weights = {spec["name"]: 1.0 for spec in specs if not spec.get("held_out")}
    return Critic(list(specs), CreditSettings(scheme, weights, "sum", credit.Options()), torch.get_num_threads(), 1.0)


def painted(*shades: list[int]) -> Group:
    """One trajectory per list, an image of that grey per turn."""
    group = Group(3, PROMPT, [sample(number, [0.0] * len(greys)) for number, greys in enumerate(shades)])
    for trajectory, greys in zip(group.trajectories, shades):
        for image, grey in zip(trajectory.images, greys):
            image.pixels = torch.full((2, 2, 3), grey, dtype=torch.uint8)
    return group


def test_samples_that_a_rewarding_scorer_failed_on_are_named_with_its_words():
    verdict, group = critic(BRIGHTNESS, FLAKY).score_group(painted([51, 102], [0, 51], [153, 204]))
    assert verdict.failures == {1: "flaky: the flaky scorer blinked"} and not verdict.empty
    assert [t.segments[0].advantage is None for t in group.trajectories] == [False, True, False]


def test_a_held_out_scorer_that_fails_leaves_no_sample_out():
    verdict, group = critic(BRIGHTNESS, FLAKY | {"held_out": True}).score_group(painted([51, 102], [0, 51]))
    assert verdict.failures == {} and verdict.means["flaky"] == pytest.approx([0.2, 0.3])
    assert all(t.segments[0].advantage is not None for t in group.trajectories)


def test_a_group_that_the_clamp_leaves_without_advantages_is_empty():
    verdict, _ = critic(BRIGHTNESS, scheme="no_improve_clamp").score_group(painted([102, 51], [51, 51]))
    assert verdict.dead and verdict.empty
    verdict, _ = critic(BRIGHTNESS, scheme="no_improve_clamp").score_group(painted([51, 102], [51, 51]))
    assert not verdict.dead and not verdict.empty


def test_what_the_scorers_cost_and_how_often_they_failed_reaches_the_metrics():
    judge = critic(BRIGHTNESS, FLAKY)
    verdicts = [judge.score_group(painted([51, 102], [0, 51]))[0] for _ in range(2)]
    metrics = summary(verdicts)
    assert metrics["reward/flaky/images"] == 8 and metrics["reward/flaky/failed"] == 2
    assert metrics["reward/brightness/seconds_per_image"] >= 0 and metrics["dropped_samples"] == 2


def test_an_image_that_siblings_share_is_scored_once_and_belongs_to_all_of_them():
    """Two trunks: one with two edits, one that stopped at its first image."""
    group = painted([51, 102], [51, 204], [153])
    group.trajectories[1].segments[:2] = group.trajectories[0].segments[:2]
    judge = critic(BRIGHTNESS)
    verdict, scored = judge.score_group(group)
    assert judge.hub.log()["reward/brightness/images"] == 4
    brightness = [t.rewards["brightness"] for t in scored.trajectories]
    assert brightness == [pytest.approx([0.2, 0.4]), pytest.approx([0.2, 0.8]), pytest.approx([0.6])]
    assert (verdict.trajectories, verdict.images, verdict.counts) == (3, 4, [2, 2])
    assert verdict.means["brightness"] == pytest.approx([0.4, 0.6])
    assert (verdict.first, verdict.last) == (pytest.approx(0.4), pytest.approx(0.6))
    assert summary([verdict])["images"] == pytest.approx(4 / 3)


def test_under_dpo_pairs_decide_what_is_trained_and_a_group_of_ties_is_dead():
    preferences = Preferences(DPORecipe(tie=0.1), {"brightness": 1.0}, malformed_penalty=0.0)
    judge = critic(BRIGHTNESS)
    judge.settings = replace(judge.settings, preferences=preferences)
    verdict, group = judge.score_group(painted([51, 102], [0, 51], [51, 76]))
    assert not verdict.dead and not verdict.empty and verdict.ties == 0
    assert [{segment.advantage for segment in t.segments} for t in group.trajectories] == [{1.0}, {-1.0}, {None}]
    verdict, _ = judge.score_group(painted([51, 102], [0, 90]))
    assert verdict.dead and verdict.empty and verdict.ties == 1


def test_what_a_run_with_dpo_says_of_groups_without_pairs_speaks_of_pairs(world, tmp_path):
    run = begun_run(world, tmp_path, rl={"algorithm": "dpo", "noise": None})
    assert collector_of(run, SlotBuffer(1, staleness=0), rollouts=None, critics=None).lack is OF_PAIRS


def test_a_failed_score_is_no_zero_in_the_curves_of_reward():
    """Fails where a sample that a scorer failed on counts as 0: the mean over three would be .2."""
    verdict, _ = critic(BRIGHTNESS, FLAKY).score_group(painted([51, 102], [0, 51], [102, 153]))
    assert (verdict.first, verdict.last) == (pytest.approx(2 * 0.3), pytest.approx(2 * 0.5))

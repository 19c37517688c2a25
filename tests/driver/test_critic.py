"""The critic on groups made by hand, with scorers whose answers are known."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from irg_rl.algorithms.base import Shared
from irg_rl.algorithms.dpo import DPO, DPOSettings
from irg_rl.algorithms.grpo import GRPO
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.config import load_recipe
from irg_rl.driver.critic import CreditSettings, Critic, CriticSettings
from irg_rl.driver.rl_loop import collector_of
from irg_rl.driver.update_metrics import hear_critics, pooled, summary
from irg_rl.errors import InputError
from irg_rl.trajectory import Group, Prompt
from rewards.base import ScorerUnavailable
from tests.driver.begun import begun_run
from tests.test_credit import PROMPT, sample

BRIGHTNESS = {"name": "brightness", "kind": "tests.rewards.scorers:Brightness"}
FLAKY = {"name": "flaky", "kind": "tests.rewards.scorers:Flaky", "failures": 0}  # black images always fail


def critic(*specs: dict, scheme: str = "turn", algorithm=None) -> Critic:
    rewarding = [spec for spec in specs if not spec.get("held_out")]
    of_images = ("image", "group")
    images, segments = (
        {s["name"]: 1.0 for s in rewarding if (s.get("of", "image") in of_images) == own} for own in (True, False)
    )
    conditions = {s["name"]: s["when"] for s in specs if "when" in s}
    own_credit = CreditSettings(scheme, images, segment_weights=segments, conditions=conditions)
    settings = CriticSettings(algorithm or GRPO(), own_credit)
    return Critic(list(specs), settings, torch.get_num_threads(), 1.0)


def painted(*shades: list[int]) -> Group:
    """One trajectory per list, an image of that grey per turn."""
    group = Group(3, PROMPT, [sample(number, [0.0] * len(greys)) for number, greys in enumerate(shades)])
    for trajectory, greys in zip(group.trajectories, shades):
        for image, grey in zip(trajectory.images, greys):
            image.pixels = torch.full((2, 2, 3), grey, dtype=torch.uint8)
    return group


def test_samples_that_a_rewarding_scorer_failed_on_are_named_with_its_words():
    told, group = critic(BRIGHTNESS, FLAKY).score_group(painted([51, 102], [0, 51], [153, 204]))
    assert told.failures == {1: "flaky: the flaky scorer blinked"} and not told.empty
    assert [t.segments[0].advantage is None for t in group.trajectories] == [False, True, False]


def test_a_held_out_scorer_that_fails_leaves_no_sample_out():
    told, group = critic(BRIGHTNESS, FLAKY | {"held_out": True}).score_group(painted([51, 102], [0, 51]))
    assert told.failures == {} and told.means["flaky"] == pytest.approx([0.2, 0.3])
    assert all(t.segments[0].advantage is not None for t in group.trajectories)


def test_models_rest_after_the_last_group_and_wake_for_the_next_one():
    judge = critic({"name": "moving", "kind": "tests.rewards.scorers:Moving"})
    judge.score_groups(painted([51], [102]))
    judge.score_groups(painted([51], [102]))
    judge.rest()
    assert judge.offload.away
    judge.score_groups(painted([51], [102]))
    assert judge.hub.scorers["moving"].went == ["scores", "scores", "cpu", "cpu", "scores"]


def test_a_group_that_the_clamp_leaves_without_advantages_is_empty():
    told, _ = critic(BRIGHTNESS, scheme="no_improve_clamp").score_group(painted([102, 51], [51, 51]))
    assert not told.has_spread and told.empty
    told, _ = critic(BRIGHTNESS, scheme="no_improve_clamp").score_group(painted([51, 102], [51, 51]))
    assert told.has_spread and not told.empty


def test_what_the_scorers_cost_and_how_often_they_failed_reaches_the_metrics():
    judge = critic(BRIGHTNESS, FLAKY)
    summaries = [judge.score_group(painted([51, 102], [0, 51]))[0] for _ in range(2)]
    scorers: dict[int, Mapping[str, float]] = {}
    hear_critics(scorers, summaries)
    metrics = summary(summaries, 0) | pooled(scorers)
    assert metrics["reward/flaky/images"] == 8 and metrics["reward/flaky/failed"] == 2
    assert metrics["reward/brightness/seconds_per_image"] >= 0 and metrics["dropped_samples"] == 2


def test_an_image_that_siblings_share_is_scored_once_and_belongs_to_all_of_them():
    """Two trunks: one with two edits, one that stopped at its first image."""
    group = painted([51, 102], [51, 204], [153])
    group.trajectories[1].segments[:2] = group.trajectories[0].segments[:2]
    judge = critic(BRIGHTNESS)
    told, scored = judge.score_group(group)
    assert judge.hub.log()["reward/brightness/images"] == 4
    brightness = [t.rewards["brightness"] for t in scored.trajectories]
    assert brightness == [pytest.approx([0.2, 0.4]), pytest.approx([0.2, 0.8]), pytest.approx([0.6])]
    assert (told.trajectories, told.images, told.images_by_turn) == (3, 4, [2, 2])
    assert told.means["brightness"] == pytest.approx([0.4, 0.6])
    assert (told.first, told.last) == (pytest.approx(0.4), pytest.approx(0.6))
    assert summary([told], 0)["images"] == pytest.approx(4 / 3)


def test_under_dpo_pairs_decide_what_is_trained_and_a_group_of_ties_has_no_spread():
    preferences = DPO(DPOSettings(tie=0.1, malformed_penalty=0.0), Shared(reward_weights={"brightness": 1.0}))
    judge = critic(BRIGHTNESS, algorithm=preferences)
    told, group = judge.score_group(painted([51, 102], [0, 51], [51, 76]))
    assert told.has_spread and not told.empty and told.counts == {"dpo/judged_ties": 0}
    assert [{segment.advantage for segment in t.segments} for t in group.trajectories] == [{1.0}, {-1.0}, {None}]
    told, _ = judge.score_group(painted([51, 102], [0, 90]))
    assert not told.has_spread and told.empty and told.counts == {"dpo/judged_ties": 1}


def test_what_a_run_with_dpo_says_of_groups_without_pairs_speaks_of_pairs(world, tmp_path):
    run = begun_run(world, tmp_path, rl={"algorithm": "dpo", "noise": None})
    made = collector_of(run, SlotBuffer(1, staleness=0), rollouts=None, critics=None)
    assert made.why_empty("its group") == "no pair of its group differs by more than rl.options.tie"
    assert made.advice == "lower it or train SFT longer"


def test_an_image_is_right_when_the_first_rewarding_verifier_says_so_and_another_scorer_may_be_named():
    smoke = "configs/shapes-smoke.yaml"
    assert CreditSettings.of(load_recipe(smoke)).perfect_scorer == "verifier"
    named = load_recipe(smoke, ["rl.credit=improvement", "rl.credit_options.perfect_scorer=judge"])
    assert CreditSettings.of(named).perfect_scorer == "judge"
    alone = load_recipe(smoke, ["rewards.scorers=[{name: judge, kind: judge}]"])
    assert CreditSettings.of(alone).perfect_scorer is None


def test_a_failed_score_is_no_zero_in_the_curves_of_reward():
    """Fails where a sample that a scorer failed on counts as 0: the mean over three would be .2."""
    verdict, _ = critic(BRIGHTNESS, FLAKY).score_group(painted([51, 102], [0, 51], [102, 153]))
    assert (verdict.first, verdict.last) == (pytest.approx(2 * 0.3), pytest.approx(2 * 0.5))


def test_the_options_of_the_credit_scheme_reach_the_advantages():
    """Fails where `advantage_clip` or another of `rl.credit_options` is not passed on: the largest would be 1.2."""
    options = ["rl.credit=trajectory", "rl.credit_options.advantage_clip=0.25"]
    settings = CreditSettings.of(load_recipe("configs/shapes-smoke.yaml", [*options, "rewards.combine=sum"]))
    group = Group(3, PROMPT, [sample(number, [number / 2]) for number in range(3)])
    for trajectory in group.trajectories:
        trajectory.rewards = dict.fromkeys(settings.weights, trajectory.rewards["score"])
    settings.give(group)
    assert [t.segments[0].advantage for t in group.trajectories] == [-0.25, 0.0, 0.25]


WORDY = {"name": "truth", "kind": "tests.rewards.scorers:Wordy", "of": "reflection"}
CHANGE = {"name": "change", "kind": "tests.rewards.scorers:Wordy", "of": "edit"}


def test_reflections_and_edits_are_scored_beside_the_image_that_they_are_about():
    judge = critic(BRIGHTNESS, WORDY, CHANGE, scheme="factorised")
    told, group = judge.score_group(painted([51, 102], [51, 204]))
    for trajectory, change in zip(group.trajectories, (0.2, 0.6)):
        assert set(trajectory.rewards) == {"brightness"}
        assert trajectory.text(0).scores == {} and trajectory.image(1).scores == {}  # think and first image
        assert trajectory.text(2).scores == pytest.approx({"truth": -0.2})
        assert trajectory.image(3).scores == pytest.approx({"change": change})
    assert told.means["change"][1] == pytest.approx(0.4) and told.means["truth"][1] == pytest.approx(-0.2)


def test_what_siblings_share_is_scored_once_also_by_scorers_of_segments():
    group = painted([51, 102], [51, 102])
    group.trajectories[1].segments[:3] = group.trajectories[0].segments[:3]  # one reflection, drawn twice
    judge = critic(BRIGHTNESS, WORDY, CHANGE, scheme="factorised")
    judge.score_group(group)
    shown = {name: judge.hub.scorers[name].shown for name in ("truth", "change")}
    stops = len({id(t.segments[-1]) for t in group.trajectories})  # a stop is a reflection, and no edit
    assert shown == {"truth": 1 + stops, "change": 2}


def test_a_scorer_that_cannot_score_reflections_is_refused_before_anything_is_sampled():
    with pytest.raises(ScorerUnavailable, match="brightness.*cannot score a reflection"):
        critic(BRIGHTNESS | {"of": "reflection"})


COUNTING = {"when": {"tag": "counting"}}
SECOND = {"name": "second", "kind": "tests.rewards.scorers:Brightness"} | COUNTING


def tagged(tag: str, *shades: list[int]) -> Group:
    group = painted(*shades)
    group.prompt = Prompt("p", "some circles", {"tag": tag})
    for trajectory in group.trajectories:
        trajectory.prompt = group.prompt
    return group


def test_a_scorer_for_other_prompts_gives_no_term_and_does_not_fail():
    judge = critic(BRIGHTNESS, SECOND, FLAKY | {"when": {"tag": "colors"}})
    told, group = judge.score_group(tagged("counting", [51, 102], [0, 204]))
    assert [list(t.rewards) for t in group.trajectories] == [["brightness", "second"]] * 2
    assert told.failures == {} and list(told.means) == ["brightness", "second"]
    assert told.last == pytest.approx(2 * (0.4 + 0.8) / 2)
    told, group = judge.score_group(tagged("scene", [51, 102], [0, 204]))
    assert [list(t.rewards) for t in group.trajectories] == [["brightness"]] * 2
    assert told.failures == {} and told.last == pytest.approx((0.4 + 0.8) / 2)
    assert all(segment.advantage is not None for segment in group.trajectories[0].segments)
    log = judge.hub.log()
    assert (log["reward/second/images"], log["reward/flaky/images"], log["reward/brightness/images"]) == (4, 0, 8)


def test_metrics_of_groups_with_different_scorers_are_those_of_the_groups_that_have_them():
    judge = critic(BRIGHTNESS, SECOND)
    groups = [tagged("scene", [51, 102], [0, 204]), tagged("counting", [153, 102], [153, 204])]
    metrics = summary([judge.score_group(group)[0] for group in groups], 0)
    assert metrics["reward/second/turn0"] == pytest.approx(0.6)
    assert metrics["reward/brightness/turn0"] == pytest.approx((0.2 + 0.0 + 0.6 + 0.6) / 4)


def test_reflections_of_other_prompts_are_not_scored():
    judge = critic(BRIGHTNESS, WORDY | COUNTING, scheme="factorised")
    _, there = judge.score_group(tagged("counting", [51, 102], [0, 204]))
    told, elsewhere = judge.score_group(tagged("scene", [51, 102], [0, 204]))
    assert all(list(t.segments[2].scores) == ["truth"] for t in there.trajectories)
    assert all(t.segments[2].scores == {} for t in elsewhere.trajectories)
    assert "truth" not in told.means and told.failures == {}


def test_an_unused_scorer_does_not_say_which_images_are_right():
    settings = CreditSettings("improvement", {"a": 1.0, "b": 2.0}, perfect_scorer="b", conditions={"b": {"tag": "t"}})
    assert settings.of_prompt(Prompt("p", "x", {"tag": "t"})) == replace(settings, weights={"a": 1.0, "b": 2.0})
    other = settings.of_prompt(Prompt("p", "x"))
    assert other.perfect_scorer is None and other.weights == {"a": 1.0}


def test_a_prompt_without_any_scorer_is_an_error_that_names_it():
    with pytest.raises(InputError, match="no scorer of images is used for its prompt 'p'"):
        critic(SECOND).score_group(tagged("scene", [51], [0]))


def test_images_of_a_group_are_compared_over_all_turns_and_shared_ones_once():
    ranks = {"name": "rank", "kind": "tests.rewards.functions:ranks", "of": "group"}
    group = painted([51, 102], [51, 204], [153])
    group.trajectories[1].segments[:2] = group.trajectories[0].segments[:2]
    told, scored = critic(ranks).score_group(group)
    assert [t.rewards["rank"] for t in scored.trajectories] == [[0.0, 1.0], [0.0, 3.0], [2.0]]
    assert told.last == pytest.approx(((1.0 + 3.0) / 2 + 2.0) / 2)
    assert all(t.segments[0].advantage is not None for t in scored.trajectories)


def test_dpo_compares_what_the_scorers_of_the_prompt_say():
    shared = Shared(reward_weights={"brightness": 1.0, "second": 1.0}, conditions={"second": {"tag": "counting"}})
    judge = critic(BRIGHTNESS, SECOND, algorithm=DPO(DPOSettings(tie=0.3, malformed_penalty=0.0), shared))
    assert not judge.score_group(tagged("scene", [0, 51], [0, 102]))[0].has_spread
    assert judge.score_group(tagged("counting", [0, 51], [0, 102]))[0].has_spread

"""What an update logs of the groups that left since the last one, and what the samplers have after it."""

from dataclasses import replace

import pytest

from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.learners import Learners
from irg_rl.driver.rl_loop import Loop, critic_fleet, rollout_fleet
from irg_rl.driver.scorers import scorer_specs
from irg_rl.driver.stages import tracker_of
from irg_rl.driver.update_metrics import drawn, summary
from irg_rl.records import load_groups, step_folder
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from tests.driver.begun import begun_run


def group(number: int, last: float, has_spread: bool) -> ScoredSummary:
    return ScoredSummary(
        group=number, version=0, has_spread=has_spread, empty=False, counts={}, failures={}, trajectories=4, stopped=0,
        images=8, text_tokens=9, means={}, images_by_turn=[4, 4], first=0.1, last=last, scorers={},
    )  # fmt: skip


def test_the_share_of_groups_with_spread_and_the_drawn_reward_count_groups_that_are_not_trained_too():
    logged = drawn([group(0, 0.2, True), group(1, 1.0, False), group(2, float("nan"), False), group(3, 0.6, False)])
    assert logged == {
        "drawn/first": pytest.approx(0.1), "drawn/last": pytest.approx(0.6), "drawn/groups": 4.0, "drawn/spread": 0.25,
    }  # fmt: skip


def test_the_age_of_a_group_is_the_number_of_updates_since_it_was_sampled():
    groups = [replace(group(number, 0.5, True), version=version) for number, version in enumerate((3, 3, 4, 5))]
    metrics = summary(groups, 5)
    assert (metrics["age/mean"], metrics["age/max"]) == (1.25, 2.0)


@pytest.mark.parametrize("staleness", [0, 1])
def test_after_every_update_the_samplers_have_the_weights_that_the_update_has_made(
    local_ray, world, tmp_path, staleness
):
    """Fails where the weights are published before the step: the samplers would always be one update behind. Every
    second update is also stored for looking. No group is older than the staleness, and each has the digest of its
    version."""
    run = begun_run(
        world, tmp_path, tracking={"wandb": False}, engine={"threads": 1, "rollout_actors": 1},
        sampling={"image_size": [16, 16], "points": 3, "max_text_tokens": 4, "turns": 1},
        rl={"updates": 2, "groups": 1, "group_size": 2, "noise": {"window": "all"}, "checkpoint_every": 5,
            "look_every": 2, "staleness": staleness, "dump_every": 1},
        rewards={"scorers": [{"name": "light", "kind": "tests.rewards.scorers:Brightness"}]},
    )  # fmt: skip
    with scorer_specs(run.recipe, run.path("scorers")) as specs, tracker_of(run) as tracker:
        learners = Learners(run, "base")
        first = learners.message.digest
        fleets = rollout_fleet(run, "base", learners), critic_fleet(run, specs)
        try:
            Loop(run, tracker, learners, *fleets).run_all()
            served, trained = learners.message, learners.publish()
        finally:
            for part in (*fleets, learners):
                part.stop()
    assert served.digest != first
    sampled = [one for number in (1, 2) for one in load_groups(step_folder(run.folder, number))]
    versions = [group.version for group in sampled]
    assert versions[0] == 0 and versions[1] in ({1} if staleness == 0 else {0, 1})
    assert all((t.version, t.digest == first) == (g.version, g.version == 0) for g in sampled for t in g.trajectories)
    ages = [row["age/max"] for row in read_metrics(run.folder / METRICS) if row["stage"] == "rl"]
    assert ages == [0, 1 - versions[1]]
    assert (served.version, served.digest) == (2, trained.digest)
    [look] = (run.folder / "looks").iterdir()
    [shown] = load_groups(look)
    assert look.name == "step-000002" and len(shown.trajectories) == 2
    assert all(0 <= score <= 1 for t in shown.trajectories for score in t.rewards["light"])

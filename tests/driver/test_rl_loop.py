"""What an update logs of the groups that left since the last one, and what the samplers have after it."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from irg_rl.cluster.fleet import Fleet, FleetError
from irg_rl.cluster.ranks import RankError
from irg_rl.cluster.ray_runtime import bounded_get
from irg_rl.cluster.slots import Ledger, SlotBuffer
from irg_rl.cluster.timeline import FILE
from irg_rl.driver import learners as learners_module
from irg_rl.driver.collector import Collector
from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.learners import Learners
from irg_rl.driver.rl_fleets import rl_fleets
from irg_rl.driver.rl_loop import Loop, collector_of
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import scorer_specs
from irg_rl.driver.stages import tracker_of
from irg_rl.driver.update_metrics import drawn, hear_critics, pooled, summary
from irg_rl.learner.checkpoint import describe
from irg_rl.records import load_groups, step_folder
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from tests.driver.begun import begun_run

UPDATES = 3


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


def test_what_several_critics_say_of_a_scorer_is_pooled():
    def of(images: float, seconds: float, slowest: float) -> dict[str, float]:
        return {"reward/a/images": images, "reward/a/failed": 1.0, "reward/a/seconds_per_image": seconds,
                "reward/a/slowest_call_seconds": slowest}  # fmt: skip

    assert pooled({0: of(30, 1.0, 7.0), 1: of(10, 5.0, 6.0) | {"reward/a/cut_texts": 2.0}}) == {
        "reward/a/images": 40, "reward/a/failed": 2, "reward/a/seconds_per_image": 2.0,
        "reward/a/slowest_call_seconds": 7.0, "reward/a/cut_texts": 2.0,
    }  # fmt: skip


def test_the_counts_of_a_critic_are_its_newest_also_if_no_group_of_it_is_trained():
    """An update knew only the critics of its groups, and of these the last by the id of the group. Counts fell."""
    def of(critic: int, images: float) -> ScoredSummary:
        return replace(group(0, 0.5, True), critic=critic, scorers={"reward/a/images": images})

    known = {}
    hear_critics(known, [of(0, 16.0), of(1, 8.0), of(0, 8.0)])
    assert pooled(known) == {"reward/a/images": 24.0}
    hear_critics(known, [of(1, 12.0)])
    assert pooled(known) == {"reward/a/images": 28.0}
    hear_critics(known, [of(0, 4.0)])  # it was started again
    assert pooled(known) == {"reward/a/images": 28.0}


def test_a_checkpoint_is_whole_before_an_error_of_a_fleet_ends_the_run():
    """The end of the run killed the learner that was writing it."""
    failed, written = threading.Event(), []

    class Failing:
        busy, slots = True, SlotBuffer(1, 1)

        def pump(self, timeout: float, update: int) -> None:
            failed.set()
            raise FleetError("0 of 1 members are left")

    class Saving:
        thread, longest, updates = ThreadPoolExecutor(1), 60.0, 3

        def save(self, state: dict) -> None:
            assert failed.wait(60)
            time.sleep(0.3)
            written.append(state)

    loop = Loop(None, None, Saving(), None, None)
    with pytest.raises(FleetError, match="0 of 1 members are left"):
        loop._save(Failing())
    assert written == [{"slots": SlotBuffer(1, 1).state()}]


@dataclass
class Looped:
    """A loop that has made its three updates, and what it works with."""

    loop: Loop
    staleness: int
    first: str  # digest of the weights before the first update

    @property
    def run(self) -> Run:
        return self.loop.run


@pytest.fixture(scope="module", params=[0, 1])
def looped(request, local_ray, world, tmp_path_factory):
    run = begun_run(
        world, tmp_path_factory.mktemp("looped"), tracking={"wandb": False}, engine={"threads": 1, "rollout_actors": 1},
        sampling={"image_size": [16, 16], "points": 3, "max_text_tokens": 4, "turns": 1},
        rl={"updates": UPDATES, "groups": 1, "group_size": 2, "noise": {"window": "all"}, "checkpoint_every": 1,
            "look_every": 2, "staleness": request.param, "dump_every": 1},
        rewards={"scorers": [{"name": "light", "kind": "tests.rewards.scorers:Brightness"}]},
    )  # fmt: skip
    with scorer_specs(run.recipe, run.path("scorers")) as specs, tracker_of(run) as tracker:
        learners = Learners(run, "base")
        first = learners.message.digest
        fleets = rl_fleets(run, "base", learners, specs)
        try:
            loop = Loop(run, tracker, learners, *fleets)
            loop.run_all()
            yield Looped(loop, request.param, first)
        finally:
            for part in (*fleets, learners):
                part.stop()


def test_after_every_update_the_samplers_have_the_weights_that_the_update_has_made(looped):
    """Fails where the weights are published before the step: the samplers would always be one update behind."""
    served, trained = looped.loop.learners.message, looped.loop.learners.publish()
    assert served.digest != looped.first
    assert (served.version, served.digest) == (UPDATES, trained.digest)


def test_no_group_is_older_than_the_staleness_and_each_has_the_digest_of_its_version(looped):
    sampled = [one for number in range(1, UPDATES + 1) for one in load_groups(step_folder(looped.run.folder, number))]
    versions = [group.version for group in sampled]
    allowed = [range(max(0, number - looped.staleness), number + 1) for number in range(UPDATES)]
    assert versions[0] == 0 and all(one in some for one, some in zip(versions, allowed, strict=True))
    for group in sampled:
        for trajectory in group.trajectories:
            assert trajectory.version == group.version
            assert (trajectory.digest == looped.first) == (group.version == 0)
    ages = [row["age/max"] for row in read_metrics(looped.run.folder / METRICS) if row["stage"] == "rl"]
    assert ages == [number - version for number, version in enumerate(versions)]


def test_the_timeline_has_the_work_of_every_actor(looped):
    rows = [json.loads(line) for line in (looped.run.folder / FILE).read_text().splitlines()]
    told = {(row["update"], row["actor"], row["what"]) for row in rows}
    for work in (("learner", "train"), ("learner", "publish"), ("rollout 0", "sample_groups"),
                 ("critic 0", "score_groups")):  # fmt: skip
        assert {(number, *work) for number in range(1, UPDATES + 1)} & told
    assert (2, "learner", "train") in told and all(row["began"] <= row["ended"] for row in rows)
    # With staleness 1, the group of update 3 was sampled after the sampler had heard the news of update 1.
    heard = {number for number, actor, what in told if (actor, what) == ("rollout 0", "set_weights")}
    assert bool(heard & {2, 3}) == (looped.staleness == 1)


def test_every_second_update_is_stored_for_looking(looped):
    [look] = (looped.run.folder / "looks").iterdir()
    [shown] = load_groups(look)
    assert look.name == "step-000002" and len(shown.trajectories) == 2
    assert all(0 <= score <= 1 for t in shown.trajectories for score in t.rewards["light"])


def beating_actors(fleet: Fleet) -> set[str]:
    return set(bounded_get(fleet._pulse.board.silent.remote(), 60, "the board"))


def test_both_fleets_listen_to_the_heartbeats_of_their_actors(looped):
    """`engine.silence_s` has no effect if the fleets or their actors do not get what beats."""
    rollouts, critics = looped.loop.rollouts, looped.loop.critics
    assert rollouts._pulse is critics._pulse and rollouts._pulse.limit == looped.run.recipe.engine.silence_s
    assert "rollout 0" in beating_actors(rollouts)  # it has sampled
    [critic] = critics.actors()
    bounded_get(critic.__ray_call__.remote(lambda actor: actor.beat()), 60, "a beat")  # scoring ends before the first
    end = time.monotonic() + 60
    while "critic 0" not in beating_actors(critics):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_that_is_resumed_while_groups_are_under_way_loses_none_and_trains_none_twice(looped):
    """The last update is made again, from the checkpoint before it, as if the run had been killed."""
    loop, last = looped.loop, learners_module.newest_checkpoint(looped.run, "rl")
    shutil.rmtree(last)
    saved = describe(learners_module.newest_checkpoint(looped.run, "rl")).cursors["slots"]
    states = [slot["state"] for slot in saved["slots"]]
    assert ("sampling" in states) == (looped.staleness == 1)
    end = time.monotonic() + 60
    while loop.rollouts.outstanding() or loop.critics.outstanding():  # a killed run loses them
        assert time.monotonic() < end
        for fleet in (loop.rollouts, loop.critics):
            fleet.poll(0.05)
    facts = Loop(loop.run, loop.tracker, loop.learners, loop.rollouts, loop.critics).run_all()
    ledger = Ledger(*(facts[name] for name in ("admitted", "trained", "dropped", "cancelled", "in_flight")))
    assert ledger.balanced and ledger.in_flight == looped.staleness and ledger.cancelled == 0
    assert facts["updates"] == UPDATES and ledger.trained == saved["exits"]["trained"] + 1
    rows = [row["step"] for row in read_metrics(looped.run.folder / METRICS) if row["stage"] == "rl"]
    assert rows == list(range(1, UPDATES + 1))


def test_a_learner_that_dies_while_groups_are_sampled_ends_the_run_in_seconds(looped, monkeypatch):
    """The groups never come, so only a check of the learner can end the wait."""
    loop = looped.loop
    [pid] = loop.learners.ranks.call("__ray_call__", lambda rank: os.getpid(), timeout=60)
    monkeypatch.setattr(Collector, "take", lambda self, update: [])
    monkeypatch.setattr(learners_module, "CHECK_S", 0.5)
    slots = SlotBuffer(1, 0, loop.learners.updates)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(RankError, match="learner 0 died .*; resume the run"):
        loop._update(collector_of(looped.run, slots, loop.rollouts, loop.critics))
    assert time.monotonic() - began < 30

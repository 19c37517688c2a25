"""Groups on their way to the learner, through real fleets whose actors say what a script tells them."""

import json
import time

import pytest
import ray
from ray.exceptions import ObjectLostError

from irg_rl.algorithms.base import Algorithm
from irg_rl.algorithms.dpo import DPO
from irg_rl.algorithms.grpo import GRPO
from irg_rl.cluster.fleet import Fleet, FleetSettings
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.driver.collector import EMPTY_UPDATES, Collector, DroppedSamples
from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.run_folder import RunError
from irg_rl.prompts import PromptOrder
from irg_rl.trajectory import Prompt

PROMPTS = PromptOrder([Prompt(f"p{number}", f"{number} red circles") for number in range(3)], seed=0)
SIZE = 2
FINE = {}
FLAT = {"has_spread": False}
EMPTY = {"has_spread": False, "empty": True}
TIED = EMPTY | {"counts": {"dpo/judged_ties": 3.0}}
FAILED = {"failures": {1: "judge: no answer"}}
PLAIN = {"has_spread": True, "empty": False, "counts": {}, "failures": {}, "trajectories": SIZE, "stopped": 0,
         "images": SIZE, "text_tokens": 0, "means": {}, "images_by_turn": [SIZE], "first": 0.0, "last": 0.0,
         "scorers": {}}  # fmt: skip


@ray.remote(num_cpus=0)
class Sampler:
    def sample_groups(self, ids: list[int], prompts: list[Prompt], size: int, version: None, update: int) -> tuple:
        return ids, *((group, update, tuple(ids)) for group in ids)


@ray.remote(num_cpus=0)
class ScriptedCritic:
    """`script`: group -> what its summary says; the groups after it are as the last one."""

    def learn(self, script: list[dict]) -> None:
        self.script, self.rests = script, 0

    def rest(self) -> int:
        self.rests += 1
        return self.rests

    def score_groups(self, *bodies: tuple[int, int, tuple[int, ...]]) -> tuple:
        return [self.summary(group, version) for group, version, _ in bodies], *bodies

    def summary(self, group: int, version: int) -> ScoredSummary:
        said = self.script[min(group, len(self.script) - 1)]
        return ScoredSummary(group=group, version=version, **PLAIN | {"counts": {}} | said)


@pytest.fixture(scope="module")
def fleets(local_ray):
    settings = FleetSettings(size=1)
    made = [Fleet(n, lambda index, actor=a: actor.remote(), settings) for n, a in
            (("rollout", Sampler), ("critic", ScriptedCritic))]  # fmt: skip
    for fleet in made:
        fleet.wait_until_serving(1, 120)  # a script reaches those that serve
    yield made
    for fleet in made:
        fleet.stop()


@pytest.fixture
def collect(fleets, tmp_path):
    """collect(script, slots) -> a collector whose dropped samples are listed in tmp_path. What the one before it left
    under way, which a killed run loses, is awaited first: fleets know units by id, and all collectors count from 0."""

    def make(script: list[dict], slots: SlotBuffer, algorithm: type[Algorithm] = GRPO, batch: int = 1) -> Collector:
        end = time.monotonic() + 60
        while any(fleet.outstanding() for fleet in fleets):
            assert time.monotonic() < end
            for fleet in fleets:
                fleet.poll(0.05)
        fleets[1].broadcast("learn", script, timeout=60)
        dropped, words = DroppedSamples(tmp_path / "dropped.jsonl"), algorithm()
        return Collector(slots, *fleets, PROMPTS, SIZE, dropped, words.why_empty, words.advice, batch)

    return make


def update(collector: Collector, number: int) -> list[int]:
    """One update without a learner; returns the groups it trained on."""
    collector.admit(number)
    end = time.monotonic() + 60
    while not (batch := collector.take(number)):
        assert time.monotonic() < end
        collector.pump(0.2, number)
    collector.published(number + 1, number)
    return [summary.group for summary, _ in batch]


def listed(folder) -> list[tuple[int, int, str]]:
    lines = map(json.loads, (folder / "dropped.jsonl").read_text().splitlines())
    return [(line["group"], line["sample"], line["reason"]) for line in lines]


SKIPPED = "its group was not trained: not finite"


@pytest.mark.parametrize(("group", "lines"), [
    (FINE, [(0, 0, SKIPPED), (0, 1, SKIPPED)]),
    (FAILED, [(0, 1, "judge: no answer"), (0, 0, SKIPPED)]),  # a failed sample is listed once, with its own reason
])  # fmt: skip
def test_each_sample_of_a_skipped_update_is_listed_once(collect, tmp_path, group, lines):
    collector = collect([group], SlotBuffer(1, staleness=0))
    collector.admit(0)
    while not collector.take(0):
        collector.pump(0.2, 0)
    collector.published(1, 0, "not finite")
    assert listed(tmp_path) == lines and not collector.listed
    assert collector.slots.ledger.dropped == 1 and collector.slots.ledger.trained == 0


def test_groups_without_spread_are_replaced_as_often_as_an_update_has_groups(collect):
    collector = collect([FLAT, FINE, FLAT, FLAT, FINE], SlotBuffer(2, staleness=0))
    assert update(collector, 0) == [1, 3]
    assert update(collector, 1) == [4, 5]
    assert [summary.group for summary in collector.left] == [0, 2, 1, 3, 4, 5]  # without spread: when judged


def test_groups_started_together_share_a_batch_and_those_that_replace_them_too(collect):
    collector = collect([FLAT, FINE, FLAT, FINE, FINE], SlotBuffer(5, staleness=0), batch=3)
    collector.admit(0)
    end = time.monotonic() + 60
    while not (taken := collector.take(0)):
        assert time.monotonic() < end
        collector.pump(0.2, 0)
    together = [ray.get(body)[2] for _, body in taken]
    assert together == [(0, 1, 2), (3, 4), (3, 4), (5, 6), (5, 6)]


def test_scorers_leave_the_gpu_after_the_last_group_of_an_update_and_after_one_that_replaces_it(collect):
    collector = collect([FINE, FINE, FINE, FINE, FINE, FLAT, FINE], SlotBuffer(3, staleness=0))
    update(collector, 0)
    collector.offload = True
    assert update(collector, 1) == [3, 4, 6]
    assert collector.critics.broadcast("rest", timeout=60) == [3]  # two of them before this one


def test_groups_without_any_advantage_are_left_out_of_an_update(collect, tmp_path):
    collector = collect([EMPTY, FINE, EMPTY, EMPTY, FINE], SlotBuffer(2, staleness=0))
    assert update(collector, 0) == [1] and {summary.group for summary in collector.left} == {0, 1, 2, 3}
    ledger = collector.slots.ledger
    assert (ledger.admitted, ledger.trained, ledger.dropped) == (4, 1, 3) and ledger.balanced
    assert listed(tmp_path) == [(g, s, "no segment of its group got an advantage") for g in (0, 2, 3) for s in (0, 1)]
    assert update(collector, 1) == [4, 5]


def test_an_update_without_any_advantage_is_sampled_anew(collect):
    collector = collect([EMPTY] * 7 + [FINE], SlotBuffer(2, staleness=0))
    assert update(collector, 0) == [7]
    assert collector.slots.ledger.dropped == 7
    assert update(collector, 1) == [8, 9]


def test_a_run_that_never_gets_an_advantage_ends_and_says_why(collect):
    collector = collect([EMPTY], SlotBuffer(2, staleness=0))
    with pytest.raises(RunError, match=f"no segment of the last {2 * EMPTY_UPDATES} groups got an advantage"):
        update(collector, 0)


def test_where_pairs_are_trained_reasons_speak_of_the_tie_and_those_of_replaced_groups_count(collect, tmp_path):
    one_tie = FINE | {"counts": {"dpo/judged_ties": 1.0}}
    collector = collect([TIED, one_tie, TIED, FINE], SlotBuffer(2, staleness=0), DPO)
    assert update(collector, 0) == [1, 3]
    assert collector.counts == {"dpo/judged_ties": 3 + 1 + 3}
    reason = "no pair of its group differs by more than rl.options.tie"
    assert listed(tmp_path) == [(group, sample, reason) for group in (0, 2) for sample in (0, 1)]
    said = f"no pair of the last {2 * EMPTY_UPDATES} groups differs by more than rl.options.tie: lower it"
    with pytest.raises(RunError, match=said):
        update(collect([TIED], SlotBuffer(2, staleness=0), DPO), 0)


def test_every_sample_left_out_is_listed_once_also_when_its_group_is_dropped(collect, tmp_path):
    collector = collect([FAILED, FLAT | FAILED, FINE], SlotBuffer(2, staleness=0))
    assert update(collector, 0) == [0, 2]
    assert sorted(listed(tmp_path)) == [
        (0, 1, "judge: no answer"),
        (1, 0, "no spread in the rewards of its group"),
        (1, 1, "judge: no answer"),
    ]


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_list_of_a_resumed_run_is_that_of_one_without_a_break(collect, tmp_path, staleness):
    script = [FAILED, FLAT, FAILED, FINE, EMPTY, FAILED, FINE, FAILED, FINE]
    whole = collect(script, SlotBuffer(2, staleness))
    updates = [update(whole, number) for number in range(3)]
    expected = (tmp_path / "dropped.jsonl").read_text()
    (tmp_path / "dropped.jsonl").unlink()
    killed = collect(script, SlotBuffer(2, staleness))
    assert update(killed, 0) == updates[0]
    state = json.loads(json.dumps(killed.slots.state()))
    update(killed, 1)  # after the checkpoint
    with (tmp_path / "dropped.jsonl").open("a") as file:
        file.write('{"step": 2, "gro')
    resumed = collect(script, SlotBuffer.restore(state))
    resumed.resume(1)
    assert [update(resumed, number) for number in (1, 2)] == updates[1:]
    assert (tmp_path / "dropped.jsonl").read_text() == expected


@ray.remote(num_cpus=0)
class HangingSampler:
    """Never ends with group 2."""

    def sample_groups(self, ids: list[int], prompts: list[Prompt], size: int, version: None, update: int) -> tuple:
        time.sleep(600 if 2 in ids else 0)
        return ids, *((group, update, tuple(ids)) for group in ids)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hanging(local_ray):
    settings = FleetSettings(1, unit_timeout=300, start_timeout=1e9, max_attempts=2)
    fleet = Fleet("hanging", lambda index: HangingSampler.remote(), settings, clock=Clock())
    yield fleet
    fleet.stop()


def test_a_group_that_only_waits_for_its_turn_is_not_late_and_one_that_hangs_is_cancelled(fleets, hanging, tmp_path):
    """The deadline began when a group was admitted. Healthy groups that were queued were cancelled: 210 of 274. Here
    each group takes 200 of its 300 seconds, by a clock that the test turns."""
    fleets[1].broadcast("learn", [FINE], timeout=60)
    dropped, words, clock = DroppedSamples(tmp_path / "dropped.jsonl"), GRPO(), hanging._clock
    collector = Collector(
        SlotBuffer(6, staleness=0), hanging, fleets[1], PROMPTS, SIZE, dropped, words.why_empty, words.advice
    )
    collector.admit(0)
    end, seen = time.monotonic() + 120, 0
    while not (batch := collector.take(0)):
        assert time.monotonic() < end
        collector.pump(0.2, 0)
        clock.now += 1  # a dead actor is replaced after half a second
        if len(collector.scored) > seen:
            seen = len(collector.scored)
            clock.now += 200
        elif seen == 2 and len(hanging.losses) < 2:
            clock.now += 400
    assert [summary.group for summary, _ in batch] == [0, 1, 3, 4, 5, 6]
    ledger = collector.slots.ledger
    assert (ledger.admitted, ledger.cancelled, ledger.in_flight) == (7, 1, 6) and ledger.balanced
    reason = "its group was lost 2 times, at last by no answer before its deadline"
    assert listed(tmp_path) == [(2, sample, reason) for sample in range(SIZE)]


@ray.remote(num_cpus=0)
class BesideADeadNode:
    """Scores like any other, but the first groups that it gets were on a node that has died."""

    def __init__(self):
        self.lost = False

    def score_groups(self, *bodies: tuple[int, int, tuple[int, ...]]) -> tuple:
        if not self.lost:
            self.lost = True
            raise ObjectLostError("ab" * 28, None, "")
        return [ScoredSummary(group=group, version=version, **PLAIN) for group, version, _ in bodies], *bodies


def test_groups_whose_samples_died_with_their_node_are_sampled_again(local_ray, tmp_path):
    """They were given up after three losses, and other groups were trained instead."""
    rollouts = Fleet("rollout", lambda index: Sampler.remote(), FleetSettings(1))
    critics = Fleet("critic", lambda index: BesideADeadNode.remote(), FleetSettings(1))
    words = GRPO()
    collector = Collector(
        SlotBuffer(4, staleness=0), rollouts, critics, PROMPTS, SIZE, DroppedSamples(tmp_path / "dropped.jsonl"),
        words.why_empty, words.advice, groups_per_batch=2,
    )  # fmt: skip
    try:
        assert update(collector, 0) == [0, 1, 2, 3]
    finally:
        rollouts.stop()
        critics.stop()
    ledger = collector.slots.ledger
    assert (ledger.admitted, ledger.trained) == (4, 4) and ledger.balanced
    assert critics.losses == ["critic: the arguments of unit (0, 1) were lost with their node"]

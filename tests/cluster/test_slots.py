"""The slot buffer, by hand and under random histories."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from irg_rl.cluster.slots import SlotBuffer, SlotState


def fill(buffer: SlotBuffer) -> list[int]:
    return [buffer.admit() for _ in range(buffer.free)]


def test_capacity_is_staleness_plus_one_times_groups_per_update():
    buffer = SlotBuffer(groups_per_update=4, staleness=2)
    assert buffer.capacity == 12
    assert fill(buffer) == list(range(12))
    with pytest.raises(RuntimeError, match="12 slots"):
        buffer.admit()


def test_groups_are_consumed_in_admission_order_whatever_the_arrival_order():
    buffer = SlotBuffer(groups_per_update=2, staleness=0)
    first, second = fill(buffer)
    buffer.mark_ready(second, version=0)
    assert buffer.ready_ahead() == []
    with pytest.raises(RuntimeError, match="only 0 of 2"):
        buffer.take(2)
    buffer.mark_ready(first, version=0)
    assert buffer.take(2) == [first, second]


def test_a_slot_is_freed_only_when_the_new_weights_are_acknowledged():
    buffer = SlotBuffer(groups_per_update=1, staleness=0)
    (group,) = fill(buffer)
    buffer.mark_ready(group, version=0)
    buffer.take(1)
    assert buffer.free == 0
    assert buffer.published(1) == [group]
    assert buffer.free == 1
    assert buffer.ledger.trained == 1


def test_a_cancelled_group_frees_its_slot_and_is_counted_with_its_reason():
    buffer = SlotBuffer(groups_per_update=2, staleness=0)
    head, _ = fill(buffer)
    buffer.cancel(head, "was lost")
    assert buffer.free == 1
    assert buffer.reasons == {"was lost": 1}


def test_a_group_older_than_the_staleness_cannot_be_taken_and_is_dropped():
    buffer = SlotBuffer(groups_per_update=2, staleness=0)
    old, _ = fill(buffer)
    buffer.mark_ready(old, version=0)
    buffer.published(1)
    with pytest.raises(RuntimeError, match="1 versions old"):
        buffer.take(1)
    assert buffer.drop_stale() == [old]
    assert buffer.reasons == {"older than 0 versions": 1}


def test_groups_without_spread_are_refilled_at_most_groups_per_update_times():
    buffer = SlotBuffer(groups_per_update=2, staleness=0)
    for _ in range(2):
        assert buffer.may_refill
        group = buffer.admit()
        buffer.mark_ready(group, version=0)
        buffer.drop(group, "no spread in rewards", refilled=True)
    assert not buffer.may_refill
    buffer.published(1)
    assert buffer.may_refill


def test_a_group_leaves_exactly_once():
    buffer = SlotBuffer(groups_per_update=1, staleness=0)
    group = buffer.admit()
    buffer.cancel(group, "deadline")
    for leave in (lambda: buffer.cancel(group, "again"), lambda: buffer.drop(group, "again")):
        with pytest.raises(RuntimeError, match="not in flight"):
            leave()


def test_what_has_left_is_known():
    buffer = SlotBuffer(1, staleness=1)
    first, second = fill(buffer)
    assert not buffer.has_left(first)
    buffer.drop(first, "judge failed")
    assert buffer.has_left(first) and not buffer.has_left(second)
    assert not buffer.has_left(second + 1), "it was never admitted"


def test_groups_of_a_skipped_update_count_as_dropped():
    buffer = SlotBuffer(groups_per_update=2, staleness=0)
    for group in fill(buffer):
        buffer.mark_ready(group, version=0)
    taken = buffer.take(2)
    assert buffer.published(1, skipped="not finite") == taken
    assert (buffer.ledger.trained, buffer.ledger.dropped, buffer.ledger.balanced) == (0, 2, True)
    assert buffer.reasons == {"not finite": 2}


def test_a_group_cannot_claim_weights_that_were_never_published():
    buffer = SlotBuffer(groups_per_update=1, staleness=0)
    with pytest.raises(ValueError, match="version 3"):
        buffer.mark_ready(buffer.admit(), version=3)


def test_the_state_survives_json_and_groups_in_flight_are_sampled_again_under_their_ids():
    buffer = SlotBuffer(groups_per_update=2, staleness=1)
    groups = fill(buffer)
    buffer.mark_ready(groups[0], version=0)
    buffer.cancel(groups[1], "deadline")
    restored = SlotBuffer.restore(json.loads(json.dumps(buffer.state())))
    assert restored.ledger == buffer.ledger
    assert [slot.id for slot in restored.in_flight()] == [0, 2, 3]
    assert {slot.state for slot in restored.in_flight()} == {SlotState.SAMPLING}
    assert restored.admit() == 4


class RandomHistory(RuleBasedStateMachine):
    """Any order of admissions, arrivals, failures and updates that a driver could produce."""

    def __init__(self):
        super().__init__()
        self.buffer = SlotBuffer(groups_per_update=2, staleness=2)
        self.left: list[int] = []
        self.order: list[int] = []

    def sampling(self) -> list[int]:
        return [slot.id for slot in self.buffer.in_flight() if slot.state == SlotState.SAMPLING]

    @precondition(lambda self: self.buffer.free)
    @rule()
    def admit(self):
        self.buffer.admit()

    @precondition(lambda self: self.sampling())
    @rule(data=st.data())
    def arrive(self, data):
        self.buffer.mark_ready(data.draw(st.sampled_from(self.sampling())), self.buffer.version)

    @precondition(lambda self: self.sampling())
    @rule(data=st.data(), refilled=st.booleans())
    def drop(self, data, refilled):
        group = data.draw(st.sampled_from(self.sampling()))
        self.buffer.drop(group, "invalid", refilled=refilled)
        self.left.append(group)

    @precondition(lambda self: self.sampling())
    @rule()
    def cancel_the_oldest(self):
        oldest = self.sampling()[0]
        self.buffer.cancel(oldest, "was lost")
        self.left.append(oldest)

    @rule()
    def update(self):
        self.left += self.buffer.drop_stale()
        taken = self.buffer.take(len(self.buffer.ready_ahead()))
        if taken:
            assert all(self.buffer.age(group) <= self.buffer.staleness for group in taken)
            self.order += taken
            self.left += self.buffer.published(self.buffer.version + 1)

    @invariant()
    def every_group_is_accounted_for_once(self):
        ledger = self.buffer.ledger
        assert ledger.balanced
        assert len(self.left) == len(set(self.left)) == ledger.trained + ledger.dropped + ledger.cancelled
        assert self.order == sorted(self.order)
        assert 0 <= self.buffer.free <= self.buffer.capacity


RandomHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRandomHistory = RandomHistory.TestCase


def test_full_updates_never_meet_a_stale_group():
    """With B consumed per update nothing is ever too old: staleness is arithmetic, not a filter."""
    buffer = SlotBuffer(groups_per_update=3, staleness=2)
    for version in range(1, 12):
        for group in fill(buffer):
            buffer.mark_ready(group, version=buffer.version)
        assert buffer.drop_stale() == []
        ages = [buffer.age(group) for group in buffer.take(3)]
        assert max(ages) <= 2
        buffer.published(version)
    assert buffer.ledger.dropped == 0

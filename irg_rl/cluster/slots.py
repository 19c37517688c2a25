"""The slot buffer limits how old samples become. For this, it counts the groups in progress. A group is all samples of
one prompt. The buffer stores only the state of each group. It does not sample or train, and it holds no tensors.

An update trains on B groups and makes a new version of the weights. Samples may be at most S versions old. The buffer
has (S + 1) * B slots, and each group in progress uses one.

    admit -> SAMPLING -> READY -> TRAINING -> trained
                 |          |         |  (slot freed when the new weights are published)
                 |          |         +---> dropped, if the update was skipped
                 +----------+--------> dropped(reason) | cancelled(reason)      (slot freed at once)

Groups are trained in the order of their admission, and each update takes the B oldest groups. When a group is admitted
at version a, at most (S + 1) * B - 1 groups are before it. So it is trained at version a + S at the latest. However, a
group is not trained if all its samples have equal rewards. If there are too many such groups, an update trains on fewer
than B groups. So the age of a group is still checked when the group is taken.

At every moment: admitted = trained + dropped + cancelled + in flight (invariant 3 of docs/architecture.md).
"""

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum


class SlotState(StrEnum):
    SAMPLING = "sampling"
    READY = "ready"
    TRAINING = "training"


class Exit(StrEnum):
    TRAINED = "trained"
    DROPPED = "dropped"
    CANCELLED = "cancelled"


@dataclass
class Slot:
    """The state of one group in flight, i.e. admitted but not yet trained, dropped or cancelled."""

    id: int
    version: int  # newest published version at admission; when ready, the version that the group was sampled with
    state: SlotState = SlotState.SAMPLING


@dataclass(frozen=True)
class Ledger:
    """Numbers of groups since the start of the run. `admitted` counts all groups that have entered the buffer; the
    other numbers say how many of them were trained, dropped or cancelled, or are still in the buffer (`in_flight`).
    """

    admitted: int
    trained: int
    dropped: int
    cancelled: int
    in_flight: int

    @property
    def balanced(self) -> bool:
        return self.admitted == self.trained + self.dropped + self.cancelled + self.in_flight


class SlotBuffer:
    """A buffer with a fixed number of slots, one for each group in progress. It decides which groups may be sampled and
    trained, and makes sure that every group leaves the buffer exactly once.
    """

    def __init__(self, groups_per_update: int, staleness: int, version: int = 0):
        if groups_per_update < 1 or staleness < 0:
            raise ValueError(
                f"groups_per_update={groups_per_update} and staleness={staleness}: need at least 1 and at least 0"
            )
        self.groups_per_update = groups_per_update
        self.staleness = staleness
        self.version = version
        self._next_id = 0
        self._slots: dict[int, Slot] = {}  # in admission order
        self._exits: Counter[Exit] = Counter()
        self._reasons: Counter[str] = Counter()
        self._refills = 0

    @property
    def capacity(self) -> int:
        return (self.staleness + 1) * self.groups_per_update

    @property
    def free(self) -> int:
        return self.capacity - len(self._slots)

    @property
    def ledger(self) -> Ledger:
        return Ledger(
            admitted=self._next_id,
            trained=self._exits[Exit.TRAINED],
            dropped=self._exits[Exit.DROPPED],
            cancelled=self._exits[Exit.CANCELLED],
            in_flight=len(self._slots),
        )

    @property
    def reasons(self) -> dict[str, int]:
        """The reasons why groups were dropped or cancelled, each with its count."""
        return dict(self._reasons)

    @property
    def may_refill(self) -> bool:
        """Return whether one more group may be replaced by a new group before the coming update. A group is replaced if
        all its samples have the same reward. At most B groups (the number of groups per update) are replaced for each
        update. After that the update trains on fewer groups.
        """
        return self._refills < self.groups_per_update

    def admit(self) -> int:
        """Take a slot for a new group and return the id of the group. Ids count up from 0 and never repeat. Raises
        RuntimeError if no slot is free."""
        if self.free == 0:
            raise RuntimeError(f"all {self.capacity} slots are in use; admit only while `free` is positive")
        slot = Slot(self._next_id, self.version)
        self._slots[slot.id] = slot
        self._next_id += 1
        return slot.id

    def mark_ready(self, group: int, version: int) -> None:
        """Mark a group as ready. This means that it has been scored, and that it was sampled with the weights of
        `version`.
        """
        slot = self._expect(group, SlotState.SAMPLING)
        if not slot.version <= version <= self.version:
            raise ValueError(
                f"group {group} claims version {version}; versions {slot.version} to {self.version} are possible"
            )
        slot.version = version
        slot.state = SlotState.READY

    def drop(self, group: int, reason: str, *, refilled: bool = False) -> None:
        """Drop a group that was sampled but will not be trained. `refilled` says that another group takes its place in
        the update.
        """
        self._expect(group, SlotState.READY, SlotState.SAMPLING)
        self._refills += refilled
        self._leave(group, Exit.DROPPED, reason)

    def cancel(self, group: int, reason: str) -> None:
        """Cancel a group that is still being sampled or scored, and free its slot. `reason` is stored for the counts in
        `reasons`."""
        self._expect(group, SlotState.SAMPLING)
        self._leave(group, Exit.CANCELLED, reason)

    def drop_stale(self) -> list[int]:
        """Drop every ready group that is more than `staleness` versions old, and return the ids of these groups."""
        old = [s.id for s in self._slots.values() if s.state == SlotState.READY and self.age(s.id) > self.staleness]
        for group in old:
            self.drop(group, f"older than {self.staleness} versions")
        return old

    def age(self, group: int) -> int:
        """Return the age of a group: how many newer versions of the weights have been published since the version with
        which the group was sampled."""
        return self.version - self._slots[group].version

    def has_left(self, group: int) -> bool:
        """Return whether the group was admitted and has already left the buffer."""
        return group < self._next_id and group not in self._slots

    def ready_ahead(self) -> list[int]:
        """Return the ids of the ready groups that `take` may return now, the oldest first. The list ends before the
        first group that is not ready, and has at most `groups_per_update` ids.
        """
        ahead: list[int] = []
        for slot in self._slots.values():
            if slot.state == SlotState.TRAINING:
                continue
            if slot.state != SlotState.READY or len(ahead) == self.groups_per_update:
                break
            ahead.append(slot.id)
        return ahead

    def take(self, count: int) -> list[int]:
        """Take the first `count` groups, in the order of admission, for training, and return their ids. Their state
        becomes TRAINING.

        Raises RuntimeError if a group is unfinished, or if it is more than `staleness` versions old (invariant 4 of
        docs/architecture.md).
        """
        ahead = self.ready_ahead()[:count]
        if len(ahead) < count:
            raise RuntimeError(f"only {len(ahead)} of {count} groups are ready at the head")
        for group in ahead:
            if self.age(group) > self.staleness:
                raise RuntimeError(f"group {group} is {self.age(group)} versions old; at most {self.staleness} allowed")
            self._slots[group].state = SlotState.TRAINING
        return ahead

    def published(self, version: int, skipped: str = "") -> list[int]:
        """Record that the new weights with the number `version` are published: a group that is admitted from now on is
        sampled with them or with newer ones. With `staleness` 0, all samplers have confirmed them. Otherwise a sampler
        confirms them before its next group. These weights were trained on the groups with the state TRAINING. Free the
        slots of these groups, and return the ids of the groups. If the update was skipped, `skipped` is the reason: the
        groups then count as dropped, not as trained."""
        if version <= self.version:
            raise ValueError(f"version {version} is not newer than {self.version}")
        self.version = version
        self._refills = 0
        done = [slot.id for slot in self._slots.values() if slot.state == SlotState.TRAINING]
        for group in done:
            self._leave(group, Exit.DROPPED if skipped else Exit.TRAINED, skipped or None)
        return done

    def in_flight(self) -> list[Slot]:
        """Return all slots that hold a group now, in the order of the start of their groups."""
        return list(self._slots.values())

    def state(self) -> dict:
        """Return the state of the buffer as JSON data, including the groups in flight."""
        return {
            "groups_per_update": self.groups_per_update,
            "staleness": self.staleness,
            "version": self.version,
            "next_id": self._next_id,
            "refills": self._refills,
            "exits": dict(self._exits),
            "reasons": dict(self._reasons),
            "slots": [asdict(slot) for slot in self._slots.values()],
        }

    @classmethod
    def restore(cls, state: dict) -> "SlotBuffer":
        """Return the buffer that a checkpoint describes. The groups in flight start again as SAMPLING, with the same
        ids, because their samples existed only in memory. The same id gives the same samples again.
        """
        buffer = cls(state["groups_per_update"], state["staleness"], state["version"])
        buffer._next_id = state["next_id"]
        buffer._refills = state["refills"]
        buffer._exits = Counter({Exit(name): count for name, count in state["exits"].items()})
        buffer._reasons = Counter(state["reasons"])
        for saved in state["slots"]:
            buffer._slots[saved["id"]] = Slot(saved["id"], state["version"])
        return buffer

    def _expect(self, group: int, *states: SlotState) -> Slot:
        slot = self._slots.get(group)
        if slot is None or slot.state not in states:
            found = "not in flight" if slot is None else slot.state.value
            raise RuntimeError(f"group {group} is {found}, expected {' or '.join(states)}")
        return slot

    def _leave(self, group: int, how: Exit, reason: str | None) -> None:
        del self._slots[group]
        self._exits[how] += 1
        if reason is not None:
            self._reasons[reason] += 1

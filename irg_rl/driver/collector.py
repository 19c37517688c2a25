"""Collects the groups for each RL update. A group is several samples of one prompt. Each group takes one slot of a
buffer. First it is sampled, then it is scored, and then it is handed out for training, in the order in which the groups
were started.

Two decisions change the result of a run: which prompt a group has, and which groups are replaced. These decisions
depend only on the ids of the groups, and they are made in the order of the ids. They do not depend on the order in
which results arrive.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray import ObjectRef

from irg_rl.algorithms.learner import EMPTY_UPDATES
from irg_rl.cluster.fleet import Fleet, wait_for_any
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.run_folder import RunError
from irg_rl.prompts import prompt_of
from irg_rl.trajectory import Prompt

NO_SPREAD = "no spread in the rewards of its group"
LONGEST_WAIT_S = 0.25
"""Longest time in seconds between two checks for finished work. Such a check also replaces actors that have taken too
long."""


@dataclass(frozen=True)
class DroppedSamples:
    """The file `dropped.jsonl`. It has one line, with the reason, for every sample that was not used for training. The
    lines of a group are written when the collector drops the group or hands it out."""

    path: Path

    def add(self, step: int, group: int, prompt: Prompt, reasons: Mapping[int, str]) -> None:
        """Write one line for each dropped sample of a group. `reasons` maps the number of the sample in its group to
        the reason."""
        with self.path.open("a", encoding="utf-8") as out:
            for sample, reason in sorted(reasons.items()):
                line = {"step": step, "group": group, "sample": sample, "prompt": prompt.text, "reason": reason}
                out.write(json.dumps(line) + "\n")

    def rewind(self, has_left: Callable[[int], bool]) -> None:
        """Remove those lines that a resumed run will write again: the lines of groups that were still in the collector
        at the checkpoint. Also remove an incomplete last line, which remains if the run was killed. `has_left` says for
        the id of a group whether the group had left the collector at the checkpoint."""
        if not self.path.exists():
            return
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        aside = self.path.with_name(self.path.name + ".tmp")
        aside.write_text("".join(f"{line}\n" for line in whole if has_left(json.loads(line)["group"])))
        aside.replace(self.path)


@dataclass
class Collector:
    """Gives work to the rollout actors (which sample groups) and to the critic actors (which score them), and hands out
    the scored groups in the order of their ids."""

    slots: SlotBuffer
    rollouts: Fleet
    critics: Fleet
    prompts: Sequence[Prompt]
    group_size: int
    seed: int
    deadline: float
    dropped: DroppedSamples
    why_empty: Callable[[str], str]  # a name for some groups -> why these groups have nothing to train on
    advice: str  # for the error message: what to change if no group has anything to train on
    clock: Callable[[], float] = time.monotonic
    scored: dict[int, tuple[ScoredSummary, ObjectRef]] = field(default_factory=dict)
    waiting: dict[int, tuple[ScoredSummary, ObjectRef]] = field(default_factory=dict)
    sampling: set[int] = field(default_factory=set)
    empty_updates: int = 0  # batches in a row in which no group had anything to train on
    counts: dict[str, float] = field(default_factory=dict)  # counts of the algorithm since the last log
    left: list[ScoredSummary] = field(default_factory=list)  # groups that left since the last log, trained or not

    def __post_init__(self) -> None:
        self.dropped.rewind(self.slots.has_left)

    def admit(self, update: int) -> None:
        """Start a new group in every free slot. The group is sampled with the current weights."""
        while self.slots.free:
            self._submit(self.slots.admit(self.clock() + self.deadline), update)

    @property
    def busy(self) -> bool:
        """Return whether any group is being sampled or scored."""
        return bool(self.sampling)

    def resume(self, update: int) -> None:
        """Start those groups again that were being sampled or scored at the checkpoint. Their samples were only in
        memory and are lost."""
        for slot in self.slots.in_flight():
            self._submit(slot.id, update)

    def _submit(self, group: int, update: int) -> None:
        self.sampling.add(group)
        prompt = prompt_of(self.prompts, group, self.seed)
        self.rollouts.submit(group, "sample_group", group, prompt, self.group_size, None, update)

    def pump(self, timeout: float, update: int) -> None:
        """Send sampled groups to the critic, and take scored groups back from it. If nothing has arrived, wait at most
        `timeout` seconds. Also cancel a group that has passed its deadline, and start a new group instead."""
        if not self._move_on():
            wait_for_any([self.rollouts, self.critics], min(timeout, LONGEST_WAIT_S))
            self._move_on()
        self._settle(update)
        self._cancel_straggler(update)

    def _move_on(self) -> bool:
        """Take the results that have arrived from the rollout actors and the critics, without waiting. Send sampled
        groups to the critics. Return whether any result had arrived."""
        sampled = self.rollouts.poll(0.0)
        for done in sampled:
            self.critics.submit(done.id, "score_group", done.body)
        scored = self.critics.poll(0.0)
        for done in scored:
            assert isinstance(done.id, int) and done.body is not None  # score_group returns two objects
            self.waiting[done.id] = (done.value, done.body)
        return bool(sampled or scored)

    def _settle(self, update: int) -> None:
        """Accept scored groups in the order of their ids. If all rewards of a group are equal, replace it by a new
        group, as long as the slot buffer allows this."""
        while self.sampling and (first := min(self.sampling)) in self.waiting:
            summary, body = self.waiting.pop(first)
            self.sampling.discard(first)
            for name, count in summary.counts.items():
                self.counts[name] = self.counts.get(name, 0.0) + count
            if not summary.has_spread and self.slots.may_refill:
                reason = self.why_empty("its group") if summary.empty else NO_SPREAD
                self.slots.drop(first, reason, refilled=True)
                self.left.append(summary)
                self._list(first, update, reason, summary.failures)
                self.admit(update)
                continue
            self.slots.mark_ready(first, summary.version)
            self.scored[first] = (summary, body)

    def _list(self, group: int, update: int, reason: str, failures: Mapping[int, str] | None = None) -> None:
        """Write a line into `dropped.jsonl` for every sample of a group that is not used for training. `reason` is the
        reason for the whole group. `failures` gives other reasons for single samples."""
        reasons = dict.fromkeys(range(self.group_size), reason) | dict(failures or {})
        self.dropped.add(update, group, prompt_of(self.prompts, group, self.seed), reasons)

    def _cancel_straggler(self, update: int) -> None:
        late = self.slots.overdue(self.clock())
        if late is not None:
            self.rollouts.withdraw(late)
            self.critics.withdraw(late)
            self.sampling.discard(late)
            self.slots.cancel(late, "passed its deadline")
            self._list(late, update, "its group passed its deadline")
            self.admit(update)

    def take(self, update: int) -> list[tuple[ScoredSummary, ObjectRef]]:
        """Return the groups of the next update, the oldest first. The list is empty until enough groups are ready.

        Groups in which nothing can be trained are dropped, so there may be fewer groups than usual. If all groups are
        dropped, the list is empty, and new groups are sampled instead.

        Raises RunError if all groups of an update are dropped EMPTY_UPDATES times in a row.
        """
        for stale in self.slots.drop_stale():
            self._list(stale, update, "its group is too old", self._leave(stale)[0].failures)
        ahead = self.slots.ready_ahead()
        if len(ahead) < self.slots.groups_per_update:
            self.admit(update)
            return []
        empty = [group for group in ahead if self.scored[group][0].empty]
        for group in empty:
            reason = self.why_empty("its group")
            self.slots.drop(group, reason)
            self._list(group, update, reason, self._leave(group)[0].failures)
        if len(empty) == len(ahead):
            self._begin_again(update)
            return []
        self.empty_updates = 0
        taken = self.slots.take(len(ahead) - len(empty))
        for group in taken:
            failures = self.scored[group][0].failures
            self.dropped.add(update, group, prompt_of(self.prompts, group, self.seed), failures)
        return [self._leave(group) for group in taken]

    def _leave(self, group: int) -> tuple[ScoredSummary, ObjectRef]:
        """Remove a scored group from the collector, whether it is trained or not. Return (summary of the group,
        reference to the group)."""
        summary, body = self.scored.pop(group)
        self.left.append(summary)
        return summary, body

    def _begin_again(self, update: int) -> None:
        self.empty_updates += 1
        if self.empty_updates == EMPTY_UPDATES:
            nothing = self.why_empty(f"the last {EMPTY_UPDATES * self.slots.groups_per_update} groups")
            raise RunError(f"{nothing}: {self.advice}; {self.dropped.path} has the reasons")
        self.admit(update)

"""Filling the slot buffer: prompts -> sampled groups -> scored groups, in admission order.

Everything that changes the result (which prompt a group has, which groups are refilled) is a function of group ids and
is decided in id order, never in the order of arrival.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ray import ObjectRef

from irg_rl.cluster.fleet import Finished, Fleet
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.commands.critic import Verdict
from irg_rl.trajectory import Prompt


def prompt_of(prompts: Sequence[Prompt], group: int, seed: int) -> Prompt:
    """Prompts in a new random order every epoch; a function of the group id alone."""
    epoch, place = divmod(group, len(prompts))
    return prompts[int(np.random.default_rng([seed, epoch]).permutation(len(prompts))[place])]


@dataclass
class Collector:
    """Keeps rollout and critic fleets busy and hands scored groups out in order."""

    slots: SlotBuffer
    rollouts: Fleet
    critics: Fleet
    prompts: Sequence[Prompt]
    group_size: int
    seed: int
    deadline: float
    dropped: Path
    clock: Callable[[], float] = time.monotonic
    scored: dict[int, tuple[Verdict, ObjectRef]] = field(default_factory=dict)
    waiting: dict[int, tuple[Verdict, ObjectRef]] = field(default_factory=dict)
    sampling: set[int] = field(default_factory=set)

    def admit(self, update: int) -> None:
        """Charge every free slot with a new group and send it to be sampled with the current weights."""
        while self.slots.free:
            self._submit(self.slots.admit(self.clock() + self.deadline), update)

    def resume(self, update: int) -> None:
        """Sample the groups again that were in flight at the checkpoint: their samples were in memory only."""
        for slot in self.slots.in_flight():
            self._submit(slot.id, update)

    def _submit(self, group: int, update: int) -> None:
        self.sampling.add(group)
        prompt = prompt_of(self.prompts, group, self.seed)
        self.rollouts.submit(group, "sample_group", group, prompt, self.group_size, None, update)

    def pump(self, timeout: float, update: int) -> None:
        """Move whatever has finished one step on, waiting at most `timeout` seconds for something to happen."""
        share = timeout / 2 if self.critics.outstanding() else timeout
        for done in self.rollouts.poll(share):
            self.critics.submit(done.id, "score_group", done.body)
        if self.critics.outstanding():
            for done in self.critics.poll(timeout - share):
                self._scored(done)
        self._settle(update)
        self._cancel_straggler(update)

    def _scored(self, done: Finished) -> None:
        self.waiting[done.id] = (done.value, done.body)

    def _settle(self, update: int) -> None:
        """Judge finished groups in id order; a dead one is replaced while the update may refill."""
        while self.sampling and (first := min(self.sampling)) in self.waiting:
            verdict, body = self.waiting.pop(first)
            self.sampling.discard(first)
            for reason in verdict.failures:
                self._note(first, update, reason)
            if verdict.dead and self.slots.may_refill:
                self.slots.drop(first, "no spread in its rewards", dead=True)
                self.admit(update)
                continue
            self.slots.mark_ready(first, verdict.version)
            self.scored[first] = (verdict, body)

    def _note(self, group: int, update: int, reason: str) -> None:
        prompt = prompt_of(self.prompts, group, self.seed).text
        with self.dropped.open("a") as out:
            out.write(json.dumps({"step": update, "group": group, "prompt": prompt, "reason": reason}) + "\n")

    def _cancel_straggler(self, update: int) -> None:
        late = self.slots.overdue(self.clock())
        if late is not None:
            self.rollouts.withdraw(late)
            self.critics.withdraw(late)
            self.sampling.discard(late)
            self.slots.cancel(late, "passed its deadline")
            self.admit(update)

    def take(self) -> list[tuple[Verdict, ObjectRef]]:
        """The groups of the next update, oldest first, once they are ready; empty while they are not."""
        for stale in self.slots.drop_stale():
            self.scored.pop(stale)
        wanted = self.slots.groups_per_update
        if len(self.slots.ready_ahead()) < wanted:
            return []
        return [self.scored.pop(group) for group in self.slots.take(wanted)]

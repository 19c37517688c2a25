"""Collects the groups for each RL update. A group is several samples of one prompt. Each group takes one slot of a
buffer. First the group is sampled, then it is scored, and then it is handed out for training. The order of groups in
training is the order of their start.

Groups that are started at the same time are sampled and scored together, in batches of at most `groups_per_batch`
groups.

Three decisions change the result of a run: which prompt a group has, which groups share a batch, and which groups are
replaced. These decisions depend only on the ids of the groups, and they are made in the order of the ids. They do not
depend on the order in which results arrive.
"""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray import ObjectRef

from irg_rl.algorithms.learner import EMPTY_UPDATES
from irg_rl.cluster.fleet import Fleet, wait_for_any
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.run_folder import RunError
from irg_rl.prompts import PromptOrder
from irg_rl.trajectory import Prompt

NO_SPREAD = "no spread in the rewards of its group"
Batch = tuple[int, ...]
"""The ids of groups that are sampled and scored together, in ascending order."""
LONGEST_WAIT_S = 0.25
"""Longest time in seconds between two checks for finished work. Such a check also replaces actors that have taken too
long."""


@dataclass(frozen=True)
class DroppedSamples:
    """The file `dropped.jsonl`. It has one line, with the reason, for every sample that was not used for training. The
    lines of a group are written when the collector drops the group or hands it out."""

    path: Path

    def add(self, step: int, group: int, prompt: Prompt, reasons: Mapping[int, str]) -> None:
        """Write one line for each dropped sample of a group. `step` is the number of the RL update. `reasons` maps the
        number of the sample in its group to the reason."""
        with self.path.open("a", encoding="utf-8") as out:
            for sample, reason in sorted(reasons.items()):
                line = {"step": step, "group": group, "sample": sample, "prompt": prompt.text, "reason": reason}
                out.write(json.dumps(line) + "\n")

    def rewind(self, has_left: Callable[[int], bool]) -> None:
        """Remove those lines that a resumed run will write again: the lines of groups that were still in the collector
        at the checkpoint. Also remove an incomplete last line, which remains if the run was killed. `has_left(id)` says
        whether the group with this id had left the collector at the checkpoint."""
        if not self.path.exists():
            return
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        aside = self.path.with_name(self.path.name + ".tmp")
        aside.write_text("".join(f"{line}\n" for line in whole if has_left(json.loads(line)["group"])))
        aside.replace(self.path)


@dataclass
class Collector:
    """Gives work to two kinds of actors: rollout actors sample groups, and critic actors score groups. The collector
    hands out the scored groups in the order of their ids."""

    slots: SlotBuffer
    rollouts: Fleet
    critics: Fleet
    prompts: PromptOrder
    group_size: int
    dropped: DroppedSamples
    why_empty: Callable[[str], str]  # a name for some groups -> why these groups have nothing to train on
    advice: str  # for the error message: what to change if no group has anything to train on
    groups_per_batch: int = 1
    offload: bool = False  # the scorers' models leave the GPU after the last group (see RewardRecipe.offload)
    scored: dict[int, tuple[ScoredSummary, ObjectRef]] = field(default_factory=dict)
    listed: dict[int, Mapping[int, str]] = field(default_factory=dict)  # failed samples of groups in training
    under_way: set[Batch] = field(default_factory=set)  # batches that are being sampled or scored
    waiting: dict[Batch, list[tuple[ScoredSummary, ObjectRef]]] = field(default_factory=dict)  # scored, in any order
    lost: dict[Hashable, str] = field(default_factory=dict)  # batches that the actors could not finish -> why
    empty_updates: int = 0  # batches in a row in which no group had anything to train on
    counts: dict[str, float] = field(default_factory=dict)  # counts of the algorithm since the last log
    left: list[ScoredSummary] = field(default_factory=list)  # groups that left since the last log, trained or not

    def __post_init__(self) -> None:
        self.dropped.rewind(self.slots.has_left)

    def admit(self, update: int) -> None:
        """Start a new group in every free slot of the buffer. The number of slots limits how many groups are in
        progress. The groups are sampled with the current weights. `update` is the number of the RL update. The sampling
        noise may depend on it."""
        self._submit([self.slots.admit() for _ in range(self.slots.free)], update)

    @property
    def busy(self) -> bool:
        """Return whether any group is being sampled or scored."""
        return bool(self.under_way)

    def resume(self, update: int) -> None:
        """After a resume, start the groups again that were being sampled or scored when the checkpoint was written.
        Their samples were only in memory and are lost. `update` is the number of the RL update."""
        self._submit([slot.id for slot in self.slots.in_flight()], update)

    def _submit(self, groups: Sequence[int], update: int) -> None:
        for begin in range(0, len(groups), self.groups_per_batch):
            batch = tuple(groups[begin : begin + self.groups_per_batch])
            self.under_way.add(batch)
            self._sample(batch, update)

    def _sample(self, batch: Batch, update: int) -> None:
        prompts = [self.prompts[group] for group in batch]
        arguments = (list(batch), prompts, self.group_size, None, update)
        self.rollouts.submit(batch, "sample_groups", *arguments, returns=1 + len(batch))

    def pump(self, timeout: float, update: int) -> None:
        """Send sampled groups to the critic, and take scored groups back from it. If nothing has arrived, wait at most
        `timeout` seconds. `update` is the number of the RL update.

        If the actors that worked on a batch died or hung too often, cancel its groups, and start new groups instead.
        """
        if not self._move_on(update) and wait_for_any([self.rollouts, self.critics], min(timeout, LONGEST_WAIT_S)):
            self._move_on(update)
        self._settle(update)

    def _move_on(self, update: int) -> bool:
        """Take the results that have arrived from the rollout actors and the critics, without waiting. Send sampled
        groups to the critics. Return whether any result had arrived.

        Sampled groups are on the node of their rollout actor until they are scored. If this node has died, they are
        sampled again. The same ids and the same weights give the same samples.
        """
        sampled = self.rollouts.poll(0.0)
        for done in sampled:
            self.critics.submit(done.id, "score_groups", *done.others, returns=1 + len(done.others))
        scored = self.critics.poll(0.0)
        for done in scored:
            assert isinstance(done.id, tuple)
            self.waiting[done.id] = list(zip(done.value, done.others, strict=True))
        for batch in self.critics.without_arguments():
            assert isinstance(batch, tuple)
            self._sample(batch, update)
        if self.offload and scored and not (self.rollouts.outstanding() or self.critics.outstanding()):
            self.critics.broadcast("rest", timeout=self.critics.settings.unit_timeout)
        given_up = self.rollouts.given_up() + self.critics.given_up()
        self.lost.update(given_up)
        return bool(sampled or scored or given_up)

    def _settle(self, update: int) -> None:
        """Accept scored groups in the order of their ids. If all rewards of a group are equal, replace it by a new
        group, as long as the slot buffer allows this. Groups of one batch are replaced together, as one batch. Groups
        that the actors could not finish are cancelled, in the same order."""
        while self.under_way and (first := min(self.under_way)) in self.waiting.keys() | self.lost.keys():
            self.under_way.discard(first)
            if first in self.lost:
                self._cancel(first, self.lost.pop(first), update)
                continue
            replaced = False
            for group, (summary, body) in zip(first, self.waiting.pop(first), strict=True):
                for name, count in summary.counts.items():
                    self.counts[name] = self.counts.get(name, 0.0) + count
                if not summary.has_spread and self.slots.may_refill:
                    reason = self.why_empty("its group") if summary.empty else NO_SPREAD
                    self.slots.drop(group, reason, refilled=True)
                    self.left.append(summary)
                    self._list(group, update, reason, summary.failures)
                    replaced = True
                else:
                    self.slots.mark_ready(group, summary.version)
                    self.scored[group] = (summary, body)
            if replaced:
                self.admit(update)

    def _list(self, group: int, update: int, reason: str, failures: Mapping[int, str] | None = None) -> None:
        """Write a line into `dropped.jsonl` for every sample of a group that is not used for training. `reason` is the
        reason for the whole group. `failures` gives other reasons for single samples."""
        reasons = dict.fromkeys(range(self.group_size), reason) | dict(failures or {})
        self.dropped.add(update, group, self.prompts[group], reasons)

    def _cancel(self, batch: Batch, reason: str, update: int) -> None:
        """Cancel the groups of a batch that the actors could not finish, and start new groups instead."""
        for group in batch:
            self.slots.cancel(group, reason)
            self._list(group, update, f"its group {reason}")
        self.admit(update)

    def take(self, update: int) -> list[tuple[ScoredSummary, ObjectRef]]:
        """Return the groups of RL update number `update`, the oldest first. Groups that are too old are dropped first.
        The list is empty until enough groups are ready.

        Groups in which nothing can be trained are dropped, too. So there may be fewer groups than usual. If nothing can
        be trained in any group, the list is empty, and new groups are sampled instead.

        Raises RunError if all groups are dropped for this reason EMPTY_UPDATES times in a row.
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
            self.listed[group] = self.scored[group][0].failures
            self.dropped.add(update, group, self.prompts[group], self.listed[group])
        return [self._leave(group) for group in taken]

    def published(self, version: int, update: int, skipped: str = "") -> None:
        """Record that the weights with the number `version` were sent to the samplers. A sampler has them before its
        next group. RL update number `update` has made them from the groups that `take` has returned. If the update was
        skipped, `skipped` is the reason: the groups then count as dropped."""
        for group in self.slots.published(version, skipped):
            listed = self.listed.pop(group, {})
            if skipped:
                reason = f"its group was not trained: {skipped}"
                others = {sample: reason for sample in range(self.group_size) if sample not in listed}
                self.dropped.add(update, group, self.prompts[group], others)

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

"""The RL stage: a loop that samples trajectories, scores them, updates the model, and sends the new weights to the
samplers.

    prompts -> slots -> rollout fleet -> critic fleet (scores, credit) -> learner -> weights -> rollout fleet

A fleet is several actors (processes) that do the same work. The actors of the rollout fleet are the samplers. The
actors of the critic fleet score the trajectories and compute the advantages (credit). Each group in progress (all
samples of one prompt) occupies one slot, and the number of slots is limited. The driver process runs this loop. It
never holds tensors. It holds only numbers and Ray's references to data in other processes.

With `rl.staleness` > 0, sampling and scoring go on during everything that the learner does. New weights are sent to all
samplers without waiting for those that are busy. With 0 nothing is sampled while the learner works, and all samplers
have the new weights before the next group begins.
"""

import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import torch
from ray import ObjectRef

from irg_rl import faults, stopping
from irg_rl.algorithms.base import algorithm_of
from irg_rl.cluster.fleet import Fleet
from irg_rl.cluster.shared_memory import free_shared_memory, in_words
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.cluster.timeline import Interval, Timeline
from irg_rl.config import adapters_of
from irg_rl.driver.collector import LONGEST_WAIT_S, Collector, DroppedSamples
from irg_rl.driver.learners import Learners, Published
from irg_rl.driver.limits import sending_limit
from irg_rl.driver.prepare import rl_prompts_file
from irg_rl.driver.progress import bar, console
from irg_rl.driver.rl_fleets import arguments, rl_fleets
from irg_rl.driver.room import LEARNER, asked_by_rl, ray_settings, ray_with_room
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.driver.scorers import scorer_specs
from irg_rl.driver.update_metrics import drawn, hear_critics, pooled, summary
from irg_rl.driver.watching import Watcher
from irg_rl.learner.publish import require_acknowledged
from irg_rl.prompts import PromptOrder, read_prompts
from irg_rl.records import load_groups
from irg_rl.report.samples import from_trajectory
from irg_rl.report.tracking import Tracker
from irg_rl.trajectory import Prompt
from rollouts.traffic import store_bytes

Returned = TypeVar("Returned")
LOGGED_TRAJECTORIES = 8
"""Largest number of trajectories that a look at RL logs to wandb, as strips of images and as a table."""


def rl_prompts(run: Run) -> list[Prompt]:
    return read_prompts(rl_prompts_file(run))


def reinforce(run: Run, start: str, tracker: Tracker, facts: dict) -> None:
    """Train a model with RL. The training starts from the model folder `start` of the run, and writes its result as the
    model folder `rl` of the same run.

    The metrics of every update are logged in `tracker`. Facts about the training, such as the number of updates, are
    put into `facts`. The caller stores `facts` in stages.json.
    """
    engine = run.recipe.engine
    if engine.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # the driver may have trained SFT on the GPU that actors need now
    for note in algorithm_of(run.recipe).notes(run.recipe):
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    settings, needed = ray_settings(run.recipe), store_bytes(run.recipe)
    if engine.address is None and engine.object_store_mb is None and settings.object_store_mb << 20 < needed:
        console.print(f"note: {in_words(needed, free_shared_memory())}", soft_wrap=True, markup=False)
    trained, asked = run.path("scorers"), asked_by_rl(run.recipe)
    with scorer_specs(run.recipe, trained) as specs, ray_with_room(run, settings, asked) as room:
        learners = Learners(run, start, room[LEARNER])
        try:
            loop = Loop(run, tracker, learners, *rl_fleets(run, start, learners, specs, room))
            facts.update(loop.run_all())
            learners.save_model("rl")
        finally:
            learners.stop()


def collector_of(run: Run, slots: SlotBuffer, rollouts: Fleet, critics: Fleet) -> Collector:
    recipe, algorithm = run.recipe, algorithm_of(run.recipe)
    rl = recipe.require_rl()
    return Collector(
        slots, rollouts, critics, PromptOrder(rl_prompts(run), recipe.rl_seed, rl.prompt_mix), rl.group_size,
        DroppedSamples(run.path("dropped.jsonl")), algorithm.why_empty, algorithm.advice,
        rl.groups_per_batch, recipe.rewards.offload,
    )  # fmt: skip


@dataclass
class Loop:
    """Makes RL updates until the number `rl.updates` of the recipe is reached, and writes checkpoints."""

    run: Run
    tracker: Tracker
    learners: Learners
    rollouts: Fleet
    critics: Fleet
    watcher: Watcher = field(init=False)
    timeline: Timeline = field(init=False)
    scorers: dict[int, Mapping[str, float]] = field(default_factory=dict)  # what each critic told of its scorers last

    def run_all(self) -> dict:
        recipe = self.run.recipe.require_rl()
        saved = self.learners.resume()
        slots = SlotBuffer(recipe.groups, recipe.staleness)
        if saved:
            slots = SlotBuffer.restore(saved["slots"])
        self.tracker.rewind("rl", self.learners.updates)
        self.watcher, self.timeline = Watcher(self.run), Timeline(self.run.folder)
        collector = collector_of(self.run, slots, self.rollouts, self.critics)
        for fleet in (self.rollouts, self.critics):
            fleet.wait_until_serving(fleet.settings.size, fleet.settings.start_timeout)
        if saved:  # the weights of the actors are older than the loaded checkpoint
            deadline = self.rollouts.settings.start_timeout
            answers = self.rollouts.broadcast("set_weights", *arguments(self.learners), timeout=deadline)
            require_acknowledged(self.learners.message.version, self.learners.message.digest, answers)
            collector.resume(self.learners.updates)
        with bar("RL", recipe.updates, self.learners.updates) as progress, stopping.loop():
            while self.learners.updates < recipe.updates:
                progress.advance(note=self._update(collector))
                if stopping.asked() or self.watcher.stopping:
                    self._save(collector)
                    if stopping.asked():
                        stopping.end(f"update {self.learners.updates} of rl")
                    raise self.watcher.error()
        return self._account(slots)

    def _account(self, slots: SlotBuffer) -> dict:
        """Return what has become of every group since the start of the run, for stages.json."""
        return {
            "updates": self.learners.updates, **asdict(slots.ledger), "reasons": slots.reasons,
            "losses": self.rollouts.losses + self.critics.losses,
        }  # fmt: skip

    def _update(self, collector: Collector) -> str:
        """Make one RL update: sample and score groups, train on them, and send the new weights to the samplers. Return
        the text that the progress bar shows."""
        update, began = self.learners.updates, time.monotonic()
        collector.admit(update)
        while not (batch := collector.take(update)):
            collector.pump(1.0, update)
            self.learners.check()
        collected = time.monotonic()
        faults.at("update", update + 1)
        groups = [body for _, body in batch]
        if update == 0:
            self._check_ratio(collector, groups)
        rl = self.run.recipe.require_rl()
        if rl.dump_every and (update + 1) % rl.dump_every == 0:
            self._meanwhile(collector, update, self.learners.dump, groups)
        if rl.look_every and (update + 1) % rl.look_every == 0:
            self._look(collector, groups)
        training = self.learners.train(groups)
        self._pump_until(training, collector, update)
        result = self.learners.finish(training)
        if self.learners.bad:
            self._meanwhile(collector, update, self.learners.keep_bad, groups)
        learned = time.monotonic()
        message = self._publish(collector, update)
        published = time.monotonic()
        trained = [summary for summary, _ in batch]
        times = {"collect": collected - began, "learn": learned - collected, "publish": published - learned}
        ledger = {f"ledger/{name}": float(count) for name, count in asdict(collector.slots.ledger).items()}
        hear_critics(self.scorers, collector.left)
        told = {
            **summary(trained, update), **pooled(self.scorers), **drawn(collector.left), **collector.counts, **ledger,
            "step/largest": message.step,
        }  # fmt: skip
        collector.left, collector.counts = [], {}
        metrics = {**told, **result, **{f"seconds/{k}": v for k, v in times.items()}, **self._busy()}
        work = [Interval("learner", "train", collected, learned), Interval("learner", "publish", learned, published)]
        for fleet in (self.rollouts, self.critics):
            work += fleet.intervals
            fleet.intervals.clear()
        self.timeline.add(self.learners.updates, work)
        self.tracker.log("rl", self.learners.updates, metrics | self.watcher.see(self.learners.updates, metrics))
        self.run.record("rl", 0.0, done=False, **self._account(collector.slots))
        due = self.learners.updates % rl.checkpoint_every == 0 and self.learners.bad <= 2
        if due or self.learners.updates >= rl.updates or self.learners.bad == 2:
            self._save(collector)  # from here, `replay` repeats the further ones of a row of bad updates
        self.learners.require_finite()
        return f"reward {metrics['reward/first']:.3f} -> {metrics['reward/last']:.3f}, {sum(times.values()):.1f} s"

    def _publish(self, collector: Collector, update: int) -> Published:
        """Send the weights that the update has made to the samplers. With staleness 0, wait until all have
        acknowledged them. Otherwise a sampler acknowledges them before its next group. Then admit new groups, because
        the groups of the update have left their slots."""
        rl = self.run.recipe.require_rl()
        message = self._meanwhile(collector, update, self.learners.publication)
        self.learners.message = message  # from here, a sampler that is started again gets these weights
        deadline = sending_limit(self.run.recipe, adapters_of(rl))

        def check(answer: tuple[int | None, str]) -> None:
            require_acknowledged(message.version, message.digest, [answer])

        if rl.staleness:
            self.rollouts.post("set_weights", *arguments(self.learners), timeout=deadline, check=check)
        else:
            for answer in self.rollouts.broadcast("set_weights", *arguments(self.learners), timeout=deadline):
                check(answer)
        collector.published(message.version, update, self.learners.skipped)
        if rl.staleness and self.learners.updates < rl.updates:
            collector.admit(self.learners.updates)
        return message

    def _meanwhile(self, collector: Collector, update: int, work: Callable[..., Returned], *args: object) -> Returned:
        """Call `work(*args)` in the learner's thread, and return its result. Sampling and scoring go on meanwhile. If
        they fail, the work still ends first. Otherwise the end of the run would cut off a checkpoint that is being
        written."""
        future = self.learners.thread.submit(work, *args)
        try:
            self._pump_until(future, collector, update)
        except Exception:
            with suppress(Exception):  # the first error is the one to tell
                future.result(timeout=self.learners.longest)
            raise
        return future.result(timeout=self.learners.longest)

    def _pump_until(self, future: Future, collector: Collector, update: int) -> None:
        """Let sampling and scoring go on until the learner has done its work, or until no group is under way."""
        while collector.busy and not future.done():
            collector.pump(LONGEST_WAIT_S, update)

    def _look(self, collector: Collector, groups: list[ObjectRef]) -> None:
        """Store some of the groups for `irg-rl view`, and log some of their trajectories to wandb."""
        rl, update = self.run.recipe.require_rl(), self.learners.updates + 1
        share = rl.look_mb * 2**20 // max(1, rl.updates // rl.look_every)
        folder = self._meanwhile(collector, self.learners.updates, self.learners.look, groups, share)
        if folder is None:
            console.print(f"note: not one group of update {update} fits into its part of rl.look_mb {rl.look_mb}")
            return
        if self.run.recipe.tracking.wandb:
            shown = [from_trajectory(t) for group in load_groups(folder) for t in group.trajectories]
            self.tracker.log_samples("rl", update, shown[:LOGGED_TRAJECTORIES])

    def _save(self, collector: Collector) -> None:
        state = {"slots": collector.slots.state()}
        self._meanwhile(collector, self.learners.updates, self.learners.save, state)
        self.run.count_time("rl")

    def _busy(self) -> dict[str, float]:
        """Return kind of work -> seconds that it took since the last update. The kinds are sampling, scoring and the
        parts of learning. Several kinds may run at the same time. The time of sampling is a mean over the rollout
        actors. The times of learning are those of the first rank."""
        parts = {"sampling": self.rollouts.lap(), "scoring": self.critics.lap(), **self.learners.seconds()}
        return {f"busy/{part}": seconds for part, seconds in parts.items()}

    def _check_ratio(self, collector: Collector, groups: list[ObjectRef]) -> None:
        rows = self._meanwhile(collector, self.learners.updates, self.learners.check_ratio, groups)
        write_json(self.run.path("evaluation", "ratio_check.json"), {"kind": "ratio_check", "rows": rows})
        holding = sum(row["max"] <= row["limit"] for row in rows)
        worst = max(rows, key=lambda row: row["max"] / row["limit"])
        console.print(
            f"ratio check: {holding} of {len(rows)} (modality, turn, step) differences are small; the largest is "
            f"{worst['modality']} of turn {worst['turn']}: {worst['max']:.2g} of {worst['limit']:.2g} allowed"
        )

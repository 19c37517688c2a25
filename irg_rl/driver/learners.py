"""The learner of RL. It runs as several Ray actors (processes), and each of these processes is called a rank. The
driver (the main process) always calls all ranks together."""

import hashlib
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import ObjectRef

from irg_rl.algorithms.learner import Learner
from irg_rl.cluster.placement import ActorRoom
from irg_rl.cluster.ranks import Ranks
from irg_rl.cluster.ray_runtime import actor_options
from irg_rl.config import adapters_of
from irg_rl.driver.limits import START_S, saving_limit, sending_limit, start_limit
from irg_rl.driver.prepare import model_path, rl_prompts_file, save_trained
from irg_rl.driver.progress import console
from irg_rl.driver.resuming import newest_checkpoint
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.room import ANYWHERE, LEARNER
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import Snapshot, require_same_recipe
from irg_rl.records import TENSORS, WORDS, group_folders, look_folder, step_folder

LOOKED_GROUPS = 4
"""Largest number of groups that a look at RL writes (`rl.look_every`)."""

NOT_FINITE = "a loss or gradient of the update was not finite"
NO_MATERIAL = "the update had nothing to train on"
CHECK_S = 5.0
"""Seconds between two checks whether all ranks are alive while groups are sampled."""
MOST_BAD = 5
"""After this many updates in a row that were not finite, RL ends with an error."""


@dataclass(frozen=True)
class Published:
    """Weights that samplers can load from Ray's object store. `arrays` is Ray's reference to the weights, `version` is
    their number, and `digest` is their hash. A sampler that has loaded the weights must confirm the number and the
    hash. `step` is the largest relative change of a weight tensor since RL began."""

    version: int
    digest: str
    arrays: ObjectRef
    step: float


def fingerprint(run: Run) -> str:
    """Return the first 12 hex digits of the sha256 of the data that RL learns from. A resumed run uses this hash to
    check that the data are unchanged. If RL learns from stored rollouts (`rl.rollouts`), the data are the files of
    these rollouts. Otherwise the data are the file with the RL prompts."""
    rollouts = run.recipe.require_rl().rollouts
    if rollouts is None:
        files = [rl_prompts_file(run)]
    else:
        files = [folder / name for folder in group_folders(Path(rollouts)) for name in (WORDS, TENSORS)]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: total)  # adds the file to `total`, piece by piece
    return total.hexdigest()[:12]


class Learners:
    """All ranks (processes) of the learner. Every method calls all ranks with the same arguments. `start` is the name
    of the run's model folder from which RL starts. `room` is where the ranks run."""

    def __init__(self, run: Run, start: str, room: ActorRoom = ANYWHERE[LEARNER]):
        self.run, self.recipe, self.start = run, run.recipe, start
        self.fingerprint = fingerprint(run)  # computed only once, because the rollouts may be large
        settings = learner_settings(self.recipe, str(model_path(run, start)))
        ranks = self.recipe.engine.learner_ranks
        engine = self.recipe.engine
        environment = {"DS_ACCELERATOR": engine.device}
        options = actor_options(threads=settings.threads, cpus=0, gpus=engine.gpus, environment=environment)
        actor = ray.remote(Learner)
        self.ranks = Ranks(
            "learner", lambda rank: actor.options(**options, **room.place(rank)).remote(settings, rank, ranks), ranks,
            room.meeting_address(),
        )  # fmt: skip
        self.lora = adapters_of(self.recipe.require_rl())
        self.ranks.start(start_limit(self.recipe, model_path(run, start)))
        self.thread = ThreadPoolExecutor(1, "learner")
        self.longest = saving_limit(self.recipe, self.lora) + START_S
        """Longest time for anything in the thread. Remote calls time out earlier, with a better message."""
        self.updates = 0
        self.steps = 0  # optimizer steps that were applied
        self.skipped = ""  # why the last update has trained nothing; empty if it has
        self.dumped = 0  # number of the last update whose groups were written to disk
        self.kept_bad: list[Path] = []  # folders that keep_bad has written, oldest first
        self.bad = 0  # updates in a row, up to the last one, that trained nothing because they were not finite
        self._checked = 0.0
        self.message = self.publish()

    def check(self) -> None:
        """Raise RankError if a rank is dead. This looks only once in CHECK_S seconds and does not wait. Call it while
        the ranks have nothing to do. Otherwise a call of theirs fails anyway."""
        if time.monotonic() - self._checked >= CHECK_S:
            self._checked = time.monotonic()
            self.ranks.check()

    def publish(self) -> Published:
        """Do what `publication` does, and keep it as the newest message to the samplers."""
        self.message = self.publication()
        return self.message

    def publication(self) -> Published:
        """Put the current weights into Ray's object store, from where samplers load them. The version of the weights is
        the number of updates so far."""
        deadline = sending_limit(self.recipe, self.lora)
        (facts, arrays), *_ = self.ranks.call("publish_apart", self.updates, timeout=deadline, kept=1)
        return Published(facts.version, facts.digest, arrays, facts.step)

    def check_ratio(self, groups: Sequence[ObjectRef]) -> list[dict]:
        return self._all("check_ratio", *groups)[0]

    def dump(self, groups: Sequence[ObjectRef], update: int | None = None) -> None:
        """Write the given groups of samples to disk. `groups` has Ray's references to the groups that the update with
        the number `update` uses for training; None means the next update. (A group has all samples of one prompt.)"""
        number = self.dumped = self.updates + 1 if update is None else update
        self._all("dump", str(step_folder(self.run.folder, number)), *groups)

    def look(self, groups: Sequence[ObjectRef], most_bytes: int) -> Path | None:
        """Write what a reader looks at of some groups to disk, in at most `most_bytes` bytes. `groups` has Ray's
        references to the groups that the next update will use for training. Return the folder, or None if not even one
        group fits."""
        folder = look_folder(self.run.folder, self.updates + 1)
        count = self._all("look", str(folder), LOOKED_GROUPS, most_bytes, *groups)[0]
        return folder if count else None

    def train(self, groups: Sequence[ObjectRef]) -> Future:
        """Start one update of the weights, and return at once. `groups` has Ray's references to the groups of scored
        samples that the update uses. Pass the returned `Future` to `finish`, which waits for the end of the update."""
        return self.thread.submit(self._all, "train", *groups)

    def finish(self, training: Future) -> dict[str, float]:
        """Wait for the end of the update that `train` has started, and return its metrics."""
        metrics = training.result(timeout=self.longest)[0]
        self.updates += 1
        before, self.steps = self.steps, int(metrics.pop("step"))
        had_material = any(name.startswith("loss/") for name in metrics)
        self.skipped = "" if self.steps > before else NOT_FINITE if had_material else NO_MATERIAL
        self.bad = self.bad + 1 if self.skipped == NOT_FINITE else 0
        return metrics

    def keep_bad(self, groups: Sequence[ObjectRef]) -> None:
        """Write the groups of the last update to disk if it was skipped because a loss or a gradient was not finite. So
        `irg-rl replay` can repeat it, from the checkpoint that is written after the second bad update of a row. The
        newest MOST_BAD folders of this kind are kept."""
        if not self.bad or self.dumped == self.updates:
            return
        self.dump(groups, self.updates)
        self.kept_bad.append(step_folder(self.run.folder, self.updates))
        for old in self.kept_bad[:-MOST_BAD]:
            shutil.rmtree(old, ignore_errors=True)
        del self.kept_bad[:-MOST_BAD]

    def require_finite(self) -> None:
        """Raise RunError if the last MOST_BAD updates were skipped because they were not finite."""
        if self.bad < MOST_BAD:
            return
        repeat = f"`irg-rl replay {self.run.folder} --step {self.updates}` repeats the last one with its groups. "
        raise RunError(
            f"{self.bad} updates in a row, up to number {self.updates}, had a loss or gradient that is not finite and "
            f"changed nothing. {repeat if self.recipe.engine.learner_ranks == 1 else ''}"
            "Lower rl.optimizer.lr in a fork of the run"
        )

    def seconds(self) -> dict[str, float]:
        """Return a dict: kind of work -> seconds that the first rank has spent on it since the last call of this
        method. The kinds are packing, replay (all forward and backward passes) and the optimizer."""
        return self._all("seconds")[0]

    def save(self, cursors: dict) -> None:
        """Write a complete checkpoint of the RL stage. `cursors` is a dict that describes the state of the driver (the
        main process), for example which groups of samples are in progress. It is stored with the checkpoint, and
        `resume` returns it."""
        recipe = self.recipe
        snapshot = Snapshot(
            step=self.updates, tensors={}, cursors=cursors, recipe=recipe.model_dump(mode="json"),
            recipe_digest=recipe.digest(), fingerprint=self.fingerprint,
        )  # fmt: skip
        self._weights("save", str(self.run.path("rl")), snapshot, recipe.engine.keep_checkpoints)

    def resume(self) -> dict | None:
        """Load the newest complete checkpoint of the RL stage. Return the `cursors` that were saved with it, or None if
        there is no checkpoint.

        The recipe and the training data (prompts or stored rollouts) must be the same as in the run that wrote the
        checkpoint. Otherwise CheckpointError is raised, and also if all checkpoints of the stage are damaged.
        """
        path = newest_checkpoint(self.run, "rl")  # this reads all files, so the ranks need not check them again
        if path is None:
            return None
        snapshot = checkpoint.describe(path, checked=True)
        recipe = self.recipe
        require_same_recipe(snapshot, recipe.model_dump(mode="json"), recipe.digest(), self.fingerprint)
        self._weights("load", str(path), True)
        self.updates, self.steps = snapshot.step, int(self._all("stats")[0]["steps"])
        self.publish()
        return snapshot.cursors

    def save_model(self, name: str) -> None:
        """Write the trained weights as the model folder `name` of the run. If `rl.ema_decay` is set, write their moving
        average instead."""
        save_trained(self.run, self.start, self._weights("average")[0], name, self.lora)

    def stop(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)
        self.ranks.stop()
        for line in self.ranks.losses:
            console.print(f"note: {line}", soft_wrap=True, markup=False)

    def _all(self, method: str, *args) -> list:
        return self.ranks.call(method, *args, timeout=self.recipe.engine.deadline_s)

    def _weights(self, method: str, *args) -> list:
        """Call a method of all ranks that writes, reads or sends all trained weights, which may take long."""
        return self.ranks.call(method, *args, timeout=saving_limit(self.recipe, self.lora))

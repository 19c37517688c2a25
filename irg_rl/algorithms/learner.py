"""One rank of the learner. It holds the model in the training engine, trains the model on groups and publishes its
weights. It usually runs as a Ray actor. However, it does not import Ray, so a single rank can also run in the driver's
own process.

All methods except `open_port`, `seconds` and `stats` are collective. They must be called on every rank with the same
arguments. They return the same value on every rank, with one exception: only rank 0 returns tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irg_rl import faults
from irg_rl.algorithms.base import Algorithm, RankContext
from irg_rl.algorithms.joint import finish
from irg_rl.config import LoraRecipe
from irg_rl.errors import InputError
from irg_rl.learner import checkpoint, ratio_check, rng, training_state
from irg_rl.learner.checkpoint import CheckpointError, Snapshot
from irg_rl.learner.ema import EMA, host_copies
from irg_rl.learner.engine import Engine, EngineSettings, StepResult
from irg_rl.learner.lora import load_trainable, served, without_adapters
from irg_rl.learner.old_weights import OldWeights
from irg_rl.learner.process_group import LOOPBACK, Rank, host_store, join, leave
from irg_rl.learner.publish import Publication, publish
from irg_rl.learner.reduce import gather_objects
from irg_rl.learner.replay import Replay, idle_pack
from irg_rl.learner.steps import WeightSteps
from irg_rl.model.folder import load_unified
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput
from irg_rl.records import for_looking, save_groups
from irg_rl.trajectory import Group, SamplingLaw

EMPTY_UPDATES = 10
"""After this many updates in a row without anything to train on, the run ends with an error."""


@dataclass(frozen=True)
class LearnerSettings:
    """All settings from which a learner is made: the model folder, the training engine, the RL algorithm, the sampling
    settings, LoRA adapters and more. They are plain data, so they can be sent to another process, which then makes the
    learner."""

    folder: str  # model folder with sizes, tokenizer and first weights; also the reference of KL terms
    engine: EngineSettings
    algorithm: Algorithm[Any]
    law: SamplingLaw
    lora: LoraRecipe | None = None  # None: all weights are trained
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    system_prompt: str = ""
    attention: str = "auto"
    max_pack_tokens: int = 8192
    minibatches: int = 1  # optimizer steps per batch of groups
    context_grad: str = "full"  # detached: no gradient of the image loss through the context of noise blocks
    ema_decay: float | None = None  # None: no averaged weights
    offline: bool = False  # True: other weights may have sampled the groups, so there is no ratio check
    probe_every: int = 0  # measure the gradient norm of each loss term every so many updates; 0: never
    collective_timeout: float = 600.0  # longest time in seconds that a rank waits for the others


class Learner:
    """One process (rank) of the learner. `ray.remote(Learner)` makes a Ray actor of it."""

    def __init__(self, settings: LearnerSettings, rank: int = 0, world_size: int = 1):
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.place = Rank(rank, world_size, settings.device)
        self._store = None
        self.updates = 0  # calls of `train` so far, including those before a loaded checkpoint
        self._checked = settings.offline
        self._empty = 0  # updates in a row that had nothing to train on

    def open_port(self, address: str = LOOPBACK) -> int:
        """Open the port at which all ranks meet, and return it. Only rank 0 is asked to do this. `address` is the
        address of rank 0 at which the other ranks reach it."""
        self._store = host_store(self.place.world_size, self.settings.collective_timeout, address)
        return self._store.port

    def setup(self, port: int | None = None, address: str = LOOPBACK) -> None:
        """Join the other ranks. Then build the model and the optimizer. If the settings ask for a moving average of the
        weights, begin it, too. If there are several ranks, `port` is the port that `open_port` of rank 0 has returned
        for `address`. If there is only one rank, `port` is None."""
        settings = self.settings
        join(self.place, self._store, port, settings.collective_timeout, address)
        rng.seed_everything(settings.seed + self.place.rank)
        model, tokenizer = load_trainable(
            Path(settings.folder), settings.device, settings.engine.precision, settings.lora, settings.seed,
            settings.attention,
        )  # fmt: skip
        config, special = model.config, model.special
        self._replay = Replay(
            config, special, tokenizer.encode,
            system_prompt=settings.system_prompt, max_pack_tokens=settings.max_pack_tokens,
        )  # fmt: skip
        algorithm = settings.algorithm
        reference = self._make_reference() if algorithm.needs_reference else None
        self.engine: Engine = Engine(
            model, settings.engine, idle_pack(config, special), self.place,
            {"context_grad": settings.context_grad},
        )  # fmt: skip
        self.steps = WeightSteps(self.engine.state().changing())
        self.ema = self.old = first = None
        if settings.ema_decay is not None:
            self.ema = EMA(self.engine.state().own(), settings.ema_decay)
        if algorithm.old_schedule is not None:
            self.old = OldWeights(self.engine.state().own(), algorithm.old_schedule)
        if algorithm.keeps_first_weights:  # with LoRA: the new adapters, which add nothing yet
            first = host_copies(self.engine.state().own())
        self.context = RankContext(
            self.engine, self._replay, self.place, settings.law, settings.engine.precision, settings.seed,
            settings.max_pack_tokens, settings.offline, self.old, first, reference,
        )  # fmt: skip

    def check_ratio(self, *groups: Group) -> list[dict]:
        """Check that sampler and learner compute the same log-probabilities for the trajectories of the groups. Return
        the differences as a list of dicts. Each dict is a row of a table in the report.

        In fp32, raises RatioError if a difference is above a limit. In bf16, the differences are only logged.
        """
        trajectories = self.context.trainable(groups)
        replays = self.context.packs(trajectories)
        limits = self.settings.algorithm.clip_image
        strict = self.settings.engine.precision == "fp32"
        found = ratio_check.check(self.engine, replays, trajectories, self.settings.law, limits, strict=strict)
        self._checked = True
        return [difference.row() for difference in found]

    def train(self, *groups: Group) -> dict[str, float]:
        """Make one update on scored groups that have advantages, and return its metrics. If there is nothing to train
        on, the update is skipped.

        If `check_ratio` was not called before, this method first calls it with these groups. It does not do so in
        training without sampling, or after `load`.

        This method can raise three errors:
        * RatioError: `check_ratio` fails, or the sampling settings of a group differ from the settings of the learner.
        * NonFiniteError: too many optimizer steps in a row are not finite (`engine.max_bad_steps` in the settings).
        * InputError: EMPTY_UPDATES updates in a row were skipped.
        """
        if not self._checked:
            self.check_ratio(*groups)
        self.updates += 1
        faults.at("learner", self.updates, str(self.place.rank))
        algorithm = self.settings.algorithm
        probe = self.settings.probe_every and self.engine.steps % self.settings.probe_every == 0
        metrics: dict[str, float] = {}
        results: list[StepResult] = []
        for packs, loss in algorithm.minibatches(self.context, groups, metrics, self.settings.minibatches):
            if probe and not results:
                norms = self.engine.term_norms(packs, loss, loss.denominators())
                metrics |= {f"grad_norm/{name}": value for name, value in norms.items()}
            results.append(self.engine.step(packs, loss, loss.denominators()))
            self._average(results[-1])
        self._empty = 0 if results else self._empty + 1
        if self._empty == EMPTY_UPDATES:
            raise InputError(algorithm.why_skipped(EMPTY_UPDATES, self.settings.max_pack_tokens))
        if not results:
            return metrics | {"step": self.engine.steps, "skipped": 1}
        if self.old is not None:
            self.old.update(self.engine.state().own())
        return metrics | summary(results)

    def gradients(self, *groups: Group) -> dict[str, dict[str, torch.Tensor]]:
        """Compute the gradients of each loss term for the given groups together, and return them. The weights do not
        change. The result is a dict from the name of a loss term to a dict from parameter name to gradient."""
        [(packs, loss)] = self.settings.algorithm.minibatches(self.context, groups, {}, 1)
        return self.engine.term_gradients(packs, loss, loss.denominators())

    def dump(self, folder: str, *groups: Group) -> None:
        """Write the groups with their advantages to files in `folder`. Only rank 0 writes."""
        if self.place.rank == 0:
            save_groups(Path(folder), groups)

    def look(self, folder: str, most_groups: int, most_bytes: int, *groups: Group) -> int:
        """Write what a reader looks at of the first groups to files in `folder` (see `records.for_looking`). Return how
        many groups fit. If none fits, no folder is written. Only rank 0 writes."""
        chosen = for_looking(groups, most_groups, most_bytes)
        if chosen and self.place.rank == 0:
            save_groups(Path(folder), chosen)
        return len(chosen)

    def publish(self, version: int) -> Publication | None:
        """Return the weights that samplers should use, marked with the number `version`. Only rank 0 returns them; the
        other ranks return None.

        With LoRA only the adapters are returned, because the samplers already have the base model. If samples are drawn
        with an old policy, the weights of the old policy are returned instead of the trained weights.
        """
        state, keeps, weights, step = self.engine.state(), self.place.rank == 0, {}, 0.0
        old = {} if self.old is None else self.old.weights
        for name, tensor in state.weights() if self.settings.lora is None else state.changing():
            step = max(step, self.steps.of(name, tensor))
            if keeps and name not in old:
                weights[name] = tensor
        weights |= training_state.collect(state.whole(old), keeps)
        weights = served(weights)
        return publish(weights.items(), version, step) if keeps else None

    def publish_apart(self, version: int) -> tuple[Publication | None, dict[str, np.ndarray]]:
        """Do the same as `publish`, but return the arrays apart from the rest. With Ray the arrays can then stay in the
        object store, and the driver does not copy them."""
        found = self.publish(version)
        return (None, {}) if found is None else (replace(found, arrays={}), found.arrays)

    def average(self) -> dict[str, torch.Tensor]:
        """Return the moving average of the trained weights. Frozen weights are left out. If the learner keeps no
        average, return the current trained weights. Only rank 0 returns tensors."""
        state = self.engine.state()
        read = state.changing() if self.ema is None else state.whole(self.ema.weights)
        return training_state.collect(read, keep=self.place.rank == 0)

    def save(self, run: str, snapshot: Snapshot, keep_last: int) -> str:
        """Write a checkpoint of the run in the folder `run`, and return the path of the checkpoint. `snapshot` contains
        the state of the driver (the main process); the learner's tensors are added to it. Only the newest `keep_last`
        checkpoints are kept.

        Raises CheckpointError on every rank if rank 0 cannot write.
        """
        tensors, words = training_state.capture(self.engine, self.ema, self.old)
        outcome = ""
        if self.place.rank == 0:
            snapshot.tensors |= tensors
            snapshot.extra["learner"] = words
            try:
                outcome = str(checkpoint.save(Path(run), snapshot, keep_last))
            except CheckpointError as error:
                outcome = f"!{error}"
        outcome = gather_objects(outcome)[0]
        if outcome.startswith("!"):
            raise CheckpointError(outcome[1:])
        return outcome

    def load(self, path: str, checked: bool = False) -> list[str]:
        """Load a checkpoint and return a list of messages about what could not be restored. `checked` says that the
        files have just been compared with their digests. Afterwards `train` does not call `check_ratio` again."""
        snapshot = checkpoint.load(Path(path), checked)
        self.updates, self._checked = snapshot.step, True
        return training_state.restore(self.engine, snapshot.tensors, snapshot.extra["learner"], self.ema, self.old)

    def seconds(self) -> dict[str, float]:
        """Return how many seconds this rank has spent on each kind of work since the last call. The kinds are packing,
        replay (all forward and backward passes) and the optimizer."""
        return self.engine.watch.lap()

    def stats(self) -> dict[str, float]:
        """Return the counters of this rank: how many optimizer steps it has made, how many it has skipped, and the
        number of the rank itself."""
        return {"steps": self.engine.steps, "skipped": self.engine.skipped, "rank": self.place.rank}

    def close(self) -> None:
        """Leave the group of processes (ranks) that train together."""
        leave()

    def _average(self, result: StepResult) -> None:
        if self.ema is None or not result.applied:
            return
        self.ema.update(self.engine.state().own())

    def _make_reference(self) -> Callable[[Pack], ModelOutput]:
        """Return a function that runs the reference model, which has the weights before RL.

        With adapters, the reference is the trained model without its adapters. Under ZeRO 3 this is impossible, because
        all ranks would have to run the trained model together. Then, and without adapters, the reference is a separate
        model.
        """
        settings = self.settings
        if settings.lora is not None and settings.engine.zero_stage < 3:

            def base(pack: Pack) -> ModelOutput:
                with without_adapters(self.engine.model):
                    return self.engine.model(pack.to(settings.device))

            return base
        dtype = torch.bfloat16 if settings.engine.precision == "bf16" else torch.float32
        model, _ = load_unified(Path(settings.folder), settings.device, dtype, settings.attention)
        model.eval().requires_grad_(False)

        def reference(pack: Pack) -> ModelOutput:
            return model(pack.to(settings.device))

        return reference


def summary(results: Sequence[StepResult]) -> dict[str, float]:
    """Return the metrics of one update. `results` has the result of each minibatch (optimizer step). Losses and
    gradient norms are averaged over the minibatches. The learning rates and the step number come from the last
    minibatch."""
    sums: dict[str, float] = {}
    maxima: dict[str, float] = {}
    metrics: dict[str, float] = {}
    for result in results:
        for name, value in result.sums.items():
            sums[name] = sums.get(name, 0.0) + value
        for name, value in result.maxima.items():
            maxima[name] = max(maxima.get(name, value), value)
        for name, value in result.terms.items():
            metrics[f"loss/{name}"] = metrics.get(f"loss/{name}", 0.0) + value / len(results)
        for name, value in result.grad_norms.items():
            metrics[f"grad_norm/{name}"] = metrics.get(f"grad_norm/{name}", 0.0) + value / len(results)
    metrics |= {f"lr/{name}": value for name, value in results[-1].learning_rates.items()}
    metrics |= {"step": results[-1].step, "skipped": sum(not r.applied for r in results)}
    return metrics | finish(sums, maxima)

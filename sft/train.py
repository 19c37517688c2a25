"""Train one stage of supervised fine-tuning (SFT) in IRGL (the six learning modes of Interleaving Reasoning
Generation). SFT has one or more stages, one after the other. Each stage has its own data and settings. The trainer
takes packs (sequences of several training rows) from a stream and makes optimizer steps. It also writes checkpoints,
from which the training can be resumed. The stage ends when the validation no longer improves, or after its last
step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from irg_rl.config import Stage
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import Snapshot
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine, Loss, StepResult
from irg_rl.learner.process_group import Rank
from irg_rl.learner.reduce import gather_objects, sum_over_ranks
from irg_rl.learner.training_state import capture, collect, restore
from sft.dataset import DataError
from sft.loss import Counts, right_tokens, sft_loss
from sft.packing import SFTPack
from sft.stream import PackStream

EMPTY_STEPS = 100
"""After this many steps in a row without a usable row, the stage ends with an error."""


@dataclass
class Plateau:
    """Decides when a stage (part of the SFT training) ends. It ends after `patience` validations in a row without
    improvement. A validation is an improvement if its loss is smaller than (1 - `margin`) times the best loss so far.
    """

    patience: int
    margin: float = 1e-3
    best: float = float("inf")
    waited: int = 0

    def add(self, loss: float) -> None:
        if loss < self.best * (1 - self.margin):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1

    @property
    def reached(self) -> bool:
        return self.waited >= self.patience


@dataclass
class Identity:
    """What identifies a training: the recipe, the digest (hash) of the recipe, and the fingerprint (hash) of the data.
    Training can continue from a checkpoint only if it has the same three values as the new run.
    """

    recipe: dict
    digest: str
    fingerprint: str


@dataclass
class StageTrainer:
    """Trains the model in `stage`, one stage (part) of supervised fine-tuning. It writes checkpoints into the folder
    `checkpoints/` inside `folder`. `engine` holds the weights and the optimizer. Every rank (training process) has one
    StageTrainer."""

    engine: Engine
    ema: EMA
    stream: PackStream
    validation: list[SFTPack]
    stage: Stage
    folder: Path
    identity: Identity
    validate_every: int
    checkpoint_every: int
    keep_checkpoints: int
    on_step: Callable[[StepResult], None] = lambda result: None
    on_validation: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    on_checkpoint: Callable[[], None] = lambda: None
    plateau: Plateau = field(init=False)

    def __post_init__(self):
        self.plateau = Plateau(self.stage.patience)

    def run(self) -> dict[str, float]:
        """Train until the validation no longer improves, or until the last step. Returns the metrics of the last
        validation."""
        metrics: dict[str, float] = {}
        while not self.is_done:
            metrics = self.advance() or metrics
        return metrics or self.validate()

    def advance(self) -> dict[str, float]:
        """Make one training step. After some steps, also validate the model or write a checkpoint, as the settings say.
        Return the metrics of the validation. The dict is empty if there was no validation."""
        metrics: dict[str, float] = {}
        result = self._step()
        self.on_step(result)
        if not result.applied:
            return metrics  # try the step again with the next packs
        step = self.engine.steps
        if step % self.validate_every == 0 or step >= self.stage.steps:
            metrics = self.validate()
            self.on_validation(step, metrics)
            self.plateau.add(metrics["loss"])
        if step % self.checkpoint_every == 0 or self.is_done:
            self.save()
            self.on_checkpoint()
        return metrics

    @property
    def is_done(self) -> bool:
        """Return whether the stage has ended. The program also checks this right after a resume, because a run may stop
        between its last checkpoint and the end of the stage."""
        return self.engine.steps >= self.stage.steps or self.plateau.reached

    def _step(self) -> StepResult:
        mine = self._own_packs()

        def loss_fn(output, index: int, totals: dict[str, float]) -> Loss:
            counts = Counts(int(totals["text"]), int(totals["latent"]))
            terms = sft_loss(output, mine[index], counts, self.stage.ce_weight, self.stage.mse_weight)
            labels = float(mine[index].pack.logit_targets.numel())
            return Loss(terms, {"right": float(right_tokens(output, mine[index])), "tokens": labels})

        counts = Counts.of(mine)
        result = self.engine.step([p.pack for p in mine], loss_fn, {"text": counts.text, "latent": counts.latent})
        if result.applied:
            self.ema.update(own_weights(self.engine))
        return result

    def _own_packs(self) -> list[SFTPack]:
        """Return the packs of the next step that belong to this rank. Packs without a usable row are left out. If no
        rank has a pack, the packs of the step after it are taken. Raises DataError if this happens too often."""
        for _ in range(EMPTY_STEPS):
            mine = []
            for _ in range(self.stage.packs_per_step):
                if not is_own(self.stream.number, self.stage, self.engine.place):
                    self.stream.skip()
                elif (pack := self.stream.next()) is not None:
                    mine.append(pack)
            if any(gather_objects(bool(mine))):
                return mine
        raise DataError(
            f"the images of {EMPTY_STEPS} training steps in a row are all damaged: mend the rows of rejected.jsonl"
        )

    def validate(self) -> dict[str, float]:
        """Compute metrics on the validation packs, and return them as a dict. Each rank (training process) computes
        some of the packs, and the results are added. The metrics are:
        * `ce`: unweighted cross-entropy of texts
        * `mse`: unweighted flow error of images
        * `loss`: weighted sum of `ce` and `mse`
        * `right_tokens`: share of correctly predicted text tokens"""
        place, counts = self.engine.place, Counts.of(self.validation)
        mine = self.validation[place.rank :: place.world_size]

        def read(output, index: int) -> tuple[float, float, int]:
            terms = sft_loss(output, mine[index], counts, 1.0, 1.0)
            return terms["ce"].item(), terms["mse"].item(), right_tokens(output, mine[index])

        parts = self.engine.evaluate([p.pack for p in mine], read)
        sums = sum_over_ranks({name: sum(p[k] for p in parts) for k, name in enumerate(("ce", "mse", "right"))})
        loss = self.stage.ce_weight * sums["ce"] + self.stage.mse_weight * sums["mse"]
        right = sums["right"] / max(counts.text, 1)
        return {"loss": loss, "ce": sums["ce"], "mse": sums["mse"], "right_tokens": right}

    def save(self) -> None:
        tensors, words = capture(self.engine, self.ema)
        if self.engine.place.rank:
            return
        plateau = {"best": self.plateau.best, "waited": self.plateau.waited}
        snapshot = Snapshot(
            step=self.engine.steps,
            tensors=tensors,
            cursors={"stream": self.stream.state(), "plateau": plateau},
            recipe=self.identity.recipe,
            recipe_digest=self.identity.digest,
            fingerprint=self.identity.fingerprint,
            extra=words,
        )
        checkpoint.save(self.folder, snapshot, self.keep_checkpoints)

    def average(self) -> dict[str, Tensor]:
        """Return the running average of the weights, as whole tensors on the CPU. Only the first rank returns tensors.
        All ranks must call this together."""
        return collect(self.engine.state().whole(self.ema.weights), keep=self.engine.place.rank == 0)

    def resume(self, path: Path) -> int:
        """Continue from the checkpoint in the folder `path`, whose files have been compared with their digests. Return
        the step of the checkpoint."""
        snapshot = checkpoint.load(path, checked=True)
        checkpoint.require_same_recipe(snapshot, self.identity.recipe, self.identity.digest, self.identity.fingerprint)
        restore(self.engine, snapshot.tensors, snapshot.extra, self.ema)
        self.stream.load_state(snapshot.cursors["stream"])
        self.plateau.best = snapshot.cursors["plateau"]["best"]
        self.plateau.waited = snapshot.cursors["plateau"]["waited"]
        return snapshot.step


def is_own(number: int, stage: Stage, place: Rank) -> bool:
    """Return whether the pack with this number belongs to the rank `place`. The packs of a step are dealt out in
    turn."""
    return number % stage.packs_per_step % place.world_size == place.rank


def own_weights(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Return pairs (name, part) of all trainable weights: this rank's part of each of them, in fp32. They are the input
    of the running average (EMA)."""
    names = {name for name, _ in engine.model.named_parameters()}
    return ((name, part) for name, part in engine.state().own() if name in names)

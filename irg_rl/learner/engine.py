"""The training engine for SFT and RL. One optimizer step trains on any number of packs (a pack is the input of one
forward pass). ZeRO stages 0 to 3 are supported.

Every forward pass goes through the DeepSpeed engine, and all backward passes of a step share one reduction of the
gradients over ranks (`coalesce_grad_reduction`). Without this, two backward passes in one step would silently lose the
gradient of the first one under ZeRO 1 and 2. Under ZeRO 3 the same happens if a forward pass bypasses the engine.

DeepSpeed averages gradients over ranks. But each loss is already divided by a *global* denominator. So the engine
multiplies each loss by the world size. Then the update is the same as with one big batch.

All ranks must run the same number of forward passes. Therefore a rank with fewer packs than the others also runs the
idle pack. This is a small pack, and its outputs enter the loss with weight zero. With several ranks every pack must use
every module (`PackBuilder.build(touch_all=True)`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import deepspeed
import torch
from torch import Tensor, nn

from irg_rl.learner.old_weights import holding
from irg_rl.learner.parts import make_optimizer, part_of
from irg_rl.learner.process_group import Rank, join
from irg_rl.learner.reduce import all_true, gather_objects, max_over_ranks, reduce_sum, sum_over_ranks
from irg_rl.learner.stopwatch import Stopwatch
from irg_rl.learner.update import REDUCE_BUCKET, EngineSettings, Loss, LossFn, NonFiniteError, StepResult
from irg_rl.learner.weights import FullState

__all__ = ["Engine", "EngineSettings", "Loss", "LossFn", "NonFiniteError", "StepResult"]


class Movable(Protocol):
    def to(self, device: torch.device | str) -> Self: ...


P = TypeVar("P", bound=Movable)


@runtime_checkable
class RecomputesActivations(Protocol):
    def recompute_activations(self) -> None: ...


class Engine(Generic[P]):
    """Holds the training state of a model: its weights, the optimizer and the step count.

    Args:
        model: Its forward pass takes one pack. With `activation_checkpointing` the model must have a method
            `recompute_activations()`.
        idle_pack: A small pack that uses every module. The sum of its outputs enters the loss with weight zero.
        place: The number of this process among the ranks, and the device of this process. If there are several ranks,
            all of them must have called `process_group.join` before.
        forward_options: Keyword arguments that are passed to every forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: EngineSettings,
        idle_pack: P,
        place: Rank | None = None,
        forward_options: Mapping[str, Any] | None = None,
    ):
        self.settings = settings
        self.place = place or Rank()
        join(self.place)
        self.device = torch.device(self.place.device)
        self._idle_pack = idle_pack.to(self.device)
        self._options = dict(forward_options or {})
        self.steps = 0
        self.skipped = 0
        self.watch = Stopwatch(self.device)
        self._bad_in_a_row = 0
        if settings.activation_checkpointing:
            if not isinstance(model, RecomputesActivations):
                raise ValueError(f"activation_checkpointing: a {type(model).__name__} has no recompute_activations()")
            model.recompute_activations()
        optimizer = make_optimizer(model, settings.optimizer)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_config(settings, self.place))
        self._engine: Any = engine  # its attributes depend on the ZeRO stage, which a type cannot express
        self._primed = False

    @property
    def model(self) -> nn.Module:
        """The torch module that is trained, without the DeepSpeed engine around it. Use it for evaluation and
        generation. Under ZeRO 3 its weights are partitioned over the ranks."""
        return self._engine.module

    def step(self, packs: Sequence[P], loss_fn: LossFn, denominators: Mapping[str, float]) -> StepResult:
        """Do one optimizer step with the losses of all packs of all ranks. (A pack is the input of one forward pass; a
        rank is one process of the learner.)

        Args:
            packs: The packs of this rank. The list may be empty.
            loss_fn: Computes the loss of one pack from the model's output, the index of the pack, and the sums of the
                denominators over all ranks.
            denominators: Counts of this rank, for example of tokens and denoising steps. They are summed over ranks
                before the first backward pass.

        Raises:
            NonFiniteError: if `max_bad_steps` updates in a row were skipped.
            ValueError: if no rank has a pack.
        """
        totals = sum_over_ranks(denominators)
        forwards = max(gather_objects(len(packs)))
        if forwards == 0:
            raise ValueError("no rank has a pack: an update needs at least one")
        rates = self._set_learning_rates()
        terms, sums, maxima = _Sums(), _Sums(), _Maxima()
        with self.watch("replay"), self._accumulate():
            for index, pack in enumerate(packs):
                loss = loss_fn(self._engine(pack.to(self.device), **self._options), index, totals)
                terms.add({name: float(term.detach()) for name, term in loss.terms.items()})
                sums.add(loss.sums)
                maxima.add(loss.maxima)
                self._engine.backward(loss.total() * self.place.world_size)
            for _ in range(forwards - len(packs)):
                self._run_idle(0.0)
            if not all_true(_finite(terms), self.device):
                self._run_idle(float("nan"))  # makes the gradients NaN, so that every ZeRO stage skips the step
        with self.watch("optimizer"):
            norms = self._grad_norms()
            applied = self._apply(norms)
        self._count(applied, terms)
        return StepResult(
            self.steps, applied, sum_over_ranks(terms), sum_over_ranks(sums), max_over_ranks(maxima), norms, rates
        )

    def evaluate(self, packs: Sequence[P], read: Callable[[Any, int], Any]) -> list[Any]:
        """Run a forward pass without gradients for each pack. (A pack is the input of one forward pass.) Then call
        `read(output, index)` with the model's output and the number of the pack. Return the list of what `read`
        returned. Ranks may have different numbers of packs."""
        forwards = max(gather_objects(len(packs)))
        results = []
        with self.watch("replay"), torch.no_grad():
            for index, pack in enumerate(packs):
                results.append(read(self._engine.module(pack.to(self.device), **self._options), index))
            for _ in range(forwards - len(packs)):
                self._engine.module(self._idle_pack, **self._options)
        return results

    def holding(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Return a context manager. Inside its `with` block, `evaluate` computes with `weights` instead of the trained
        weights. `weights` has this rank's part of every tensor by name, as `FullState.own` gives it. The training state
        does not change. This is a collective call: all ranks must make it.

        Under ZeRO 3 the parts take the place of those of the trained weights. Otherwise the whole tensors are joined
        one after the other, and held on the device in the number type of the model.
        """
        if self.settings.zero_stage == 3:
            return holding(self._engine.module, weights, self._engine.optimizer.empty_partition_cache)
        types = {name: p.dtype for name, p in self._engine.module.named_parameters() if p.requires_grad}
        parts = {name: part for name, part in weights.items() if name in types}
        return holding(self._engine.module, {n: full.to(types[n]) for n, full in self.state().whole(parts)})

    def term_norms(
        self, packs: Sequence[P], loss_fn: LossFn, denominators: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the norm of the gradient of each loss term alone, separately for each part of the model
        (`parts.ModelPart`). The keys are "term/part", for example {"image/und": 0.1}. The arguments are the same as in
        `step`.

        The call changes nothing and costs about as much as a step. It is a collective call: all ranks must make it.
        Raises ValueError under ZeRO 3, because there no rank has a whole gradient.
        """
        squares: dict[str, float] = {}
        for term, gradients in self.term_gradients(packs, loss_fn, denominators).items():
            for name, gradient in gradients.items():
                key = f"{term}/{part_of(name)}"
                squares[key] = squares.get(key, 0.0) + float(gradient.double().square().sum())
        return {name: square**0.5 for name, square in squares.items()}

    def term_gradients(
        self, packs: Sequence[P], loss_fn: LossFn, denominators: Mapping[str, float]
    ) -> dict[str, dict[str, Tensor]]:
        """Return the gradient of each loss term alone, summed over ranks: {term: {parameter name: gradient}}. The
        arguments are the same as in `step`, but no optimizer step is made. All ranks must make this call. Raises
        ValueError under ZeRO 3, because there no rank has a whole gradient."""
        if self.settings.zero_stage == 3:
            raise ValueError("norms per loss term need whole weights on each rank; set zero_stage to at most 2")
        totals = sum_over_ranks(denominators)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        parameters = list(named.values())
        sums: dict[str, list[Tensor]] = {}
        for index, pack in enumerate(packs):
            loss = loss_fn(self._engine.module(pack.to(self.device), **self._options), index, totals)
            for term, value in loss.terms.items():
                gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
                if term not in sums:
                    sums[term] = [torch.zeros_like(gradient) for gradient in gradients]
                _add(sums[term], gradients)
                del gradients  # as large as all trained weights, and the next term needs the room
        found = {}
        for term in sorted({name for names in gather_objects(list(sums)) for name in names}):
            own = sums.get(term) or [torch.zeros_like(p) for p in parameters]
            found[term] = {name: reduce_sum(gradient) for name, gradient in zip(named, own)}
        return found

    def state(self) -> FullState:
        """Return the complete training state as a `FullState`. This is a collective call: all ranks must make it."""
        self._prime()
        return FullState(self._engine, self.settings.zero_stage)

    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Restore a saved training state: weights, optimizer moments and the number of steps done. The saved state may
        come from a run with any world size. This is a collective call: all ranks must make it.
        """
        self._prime()
        FullState(self._engine, self.settings.zero_stage).load(weights, moments, steps)
        self.steps = steps

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load other weights, set the optimizer moments to zero, and count steps from 0 again. Use this at the
        beginning of a new training stage. This is a collective call: all ranks must make it."""
        state = self.state()
        zeros = {key: {name: torch.zeros_like(t) for name, t in state.moment(key)} for key in state.MOMENTS}
        self.load(weights, zeros, 0)

    @contextmanager
    def _accumulate(self) -> Iterator[None]:
        """Return a context manager. All backward passes inside its `with` block share one reduction of the gradients
        over ranks."""
        if self.settings.zero_stage > 0:
            with self._engine.coalesce_grad_reduction():
                yield
        else:
            with self._engine.no_sync():
                yield
            self._engine.allreduce_gradients()

    def _run_idle(self, weight: float) -> None:
        output = self._engine(self._idle_pack, **self._options)
        self._engine.backward(weight * sum(t.float().sum() for t in _tensors(output)))

    def _set_learning_rates(self) -> dict[str, float]:
        factor = self.settings.optimizer.schedule.factor(self.steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return {part: rate * factor for part, rate in self.settings.optimizer.learning_rates.items()}

    def _grad_norms(self) -> dict[str, float]:
        """Return the norms of the gradient after it was reduced over ranks: one norm for each part of the model, and
        one, "total", for all parameters. The norms are computed from the gradient partitions that the optimizer step
        will use.
        """
        squares: dict[str, float] = {}
        for part, gradients in self._local_gradients():
            squares[part] = squares.get(part, 0.0) + sum(float(g.double().square().sum()) for g in gradients)
        if self.settings.zero_stage > 0:
            squares = sum_over_ranks(squares)
        return {part: square**0.5 for part, square in squares.items()} | {"total": sum(squares.values()) ** 0.5}

    def _local_gradients(self) -> Iterator[tuple[str, list[Tensor]]]:
        optimizer = self._engine.optimizer
        groups = optimizer.param_groups
        if self.settings.zero_stage == 0:
            yield from ((g["part"], [p.grad for p in g["params"] if p.grad is not None]) for g in groups)
            return
        for index, gradients in optimizer.averaged_gradients.items():
            group = optimizer.sub_group_to_group_id[index] if self.settings.zero_stage == 3 else index
            yield groups[group]["part"], [g for g in gradients if g is not None]

    def _apply(self, norms: dict[str, float]) -> bool:
        if self.settings.zero_stage == 0 and not _finite(norms):
            self._engine.zero_grad()
            return False
        self._engine.step()
        self._primed = True
        return self._engine.was_step_applied()

    def _count(self, applied: bool, terms: dict[str, float]) -> None:
        if applied:
            self.steps += 1
            self._bad_in_a_row = 0
            return
        self.skipped += 1
        self._bad_in_a_row += 1
        most = self.settings.max_bad_steps
        if most is not None and self._bad_in_a_row >= most:
            raise NonFiniteError(
                f"{self._bad_in_a_row} updates in a row after step {self.steps} were not finite (loss terms on this "
                f"rank: {dict(terms)}); lower the learning rate or resume from an earlier checkpoint"
            )

    def _prime(self) -> None:
        """Make the optimizer create its moments. It creates them in its first step, so this does one empty step with
        learning rate zero.
        """
        if self._primed:
            return
        for group in self._engine.optimizer.param_groups:
            group["lr"] = 0.0
        with self._accumulate():
            self._run_idle(0.0)
        self._engine.step()
        FullState(self._engine, self.settings.zero_stage).set_steps(0)
        self._primed = True


class _Sums(dict[str, float]):
    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value


class _Maxima(dict[str, float]):
    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self[name] = max(self.get(name, value), value)


def _finite(values: Mapping[str, float]) -> bool:
    return bool(torch.isfinite(torch.tensor(list(values.values()))).all())


def _tensors(output: Any) -> list[Tensor]:
    """Return all tensors of a model output. The output is a tensor itself, or an object with tensors in some of its
    fields."""
    if isinstance(output, Tensor):
        return [output]
    return [value for value in vars(output).values() if isinstance(value, Tensor)]


def _config(settings: EngineSettings, place: Rank) -> dict:
    """Return the configuration of DeepSpeed. All values are explicit numbers, because with the value "auto" DeepSpeed
    would silently use its own defaults.
    """
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": place.world_size,
        "gradient_clipping": settings.grad_clip,
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": REDUCE_BUCKET,
            "allgather_bucket_size": 50_000_000,
            "contiguous_gradients": True,
        },
    }
    if settings.precision == "bf16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _add(totals: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add each gradient to its total, in place."""
    for total, gradient in zip(totals, gradients, strict=True):
        total += gradient

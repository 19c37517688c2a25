"""Costs of a recipe: the memory of every process, the bytes sent per publication of the weights, the forward passes per
trajectory, the floating-point operations, and the time.

The costs are computed with the run's own code. The model is built on the meta device. The optimizer is the optimizer of
the engine. The packs (batches of token sequences) are the longest packs that the recipe allows (worst_case.py).
Activations are counted by running a forward pass on tensors that have a shape but no numbers (model/footprint.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TypeVar, cast

import torch

from irg_rl.algorithms.base import algorithm_of
from irg_rl.config import LoraRecipe, Recipe, Stage, adapters_of
from irg_rl.learner.from_recipe import engine_settings, precision
from irg_rl.learner.lora import adapter_size, add_adapters, is_adapter
from irg_rl.learner.parts import ModelPart, part_of
from irg_rl.learner.sizes import FP32, published_bytes
from irg_rl.learner.update import EngineSettings
from irg_rl.model.attention import Backend
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.cache import KVCache
from irg_rl.model.config import ModelConfig
from irg_rl.model.flops import Matrices, Workload
from irg_rl.model.footprint import Footprint, drawing_footprint, training_footprint, velocity_footprint
from irg_rl.model.pack import Pack, SpecialIds
from irg_rl.model.unified import UnifiedModel
from irg_rl.plan.main_memory import Copy, in_process, rl_copies, sft_copies
from irg_rl.plan.scorers import on_gpu
from irg_rl.plan.training_memory import (
    Component,
    Moment,
    Parameters,
    bytes_of,
    logit_bytes,
    peak,
    probe_bytes,
    training_state,
)
from irg_rl.plan.worst_case import Sampled, Sizes, replay_packs, sft_pack

SFT, LEARNER, ROLLOUT, EVALUATION = "sft {} learner", "rl learner", "rl rollout actor", "evaluation"
"""Names of the kinds of processes whose memory is estimated."""
BACKWARD = 2
"""Floating-point operations of a backward pass, divided by those of a forward pass."""


@dataclass(frozen=True)
class Rates:
    """Speed of a process: its floating-point operations per second, and the bytes per second that it reads from memory.
    The speed is assumed, not measured."""

    tflops: float  # 10^12 floating-point operations per second that are reached in practice
    gbps: float  # 10^9 bytes per second read from memory; this limits text decoding

    @classmethod
    def assumed(cls, device: str) -> "Rates":
        """Return the assumed speed. On a GPU, it is about 40 % of the bf16 peak of an H100. On a CPU, it is the speed
        of two cores."""
        return cls(400.0, 2500.0) if device == "cuda" else cls(0.1, 10.0)


@dataclass(frozen=True)
class ProcessKind:
    """One kind of process in the run. `processes` is the number of processes of this kind. Each process has its own
    card (GPU). On a CPU, each process has its own share of the memory instead."""

    name: str
    processes: int
    components: list[Component]
    note: str
    copies: list[Copy] = field(default_factory=list)
    """Copies of weights in the main memory of the machine. On the CPU `components` has them too."""

    @property
    def peak(self) -> int:
        return peak(self.components)


@dataclass(frozen=True)
class Stretch:
    """One kind of work in the run with an estimated time, for example the sampling in RL. It consists of `count` equal
    pieces that run one after the other."""

    name: str
    count: int
    flops: float  # floating-point operations of one piece, on the busiest process
    read: float = 0.0  # bytes that one piece reads from memory while it decodes texts

    def seconds(self, rates: Rates) -> float:
        return self.count * (self.flops / (rates.tflops * 1e12) + self.read / (rates.gbps * 1e9))


Function = TypeVar("Function", bound=Callable)


def cached(function: Function) -> Function:
    """Decorator: keep the results of a function, so that a second call with the same arguments computes nothing. This
    is `functools.cache` with another declared type. The arguments are frozen sections of a recipe, and type checkers do
    not know that such sections can be hashed."""
    return cast(Function, cache(function))


@cached
def meta_model(config: ModelConfig, lora: LoraRecipe | None = None) -> UnifiedModel:
    """Return the model on the meta device, where it needs no memory. With `lora`, only the adapters are trained.
    Without `lora`, all parameters are trained. An optimizer may freeze some of them later."""
    with torch.device("meta"):
        model = UnifiedModel(config, SpecialIds(0, 1, 2, 3))
        if lora is not None:
            add_adapters(model, lora, seed=0)
    return model


@cached
def meta_autoencoder(config: ModelConfig) -> Autoencoder:
    with torch.device("meta"):
        return Autoencoder(config.vae, config.latent_patch_size)


class Plan:
    """The costs of one recipe. Each cost is computed when it is first used."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = recipe.engine.device
        self.matrices = Matrices.of(self.model)
        self.autoencoder = sum(p.numel() for p in meta_autoencoder(recipe.model).parameters())

    @property
    def model(self) -> UnifiedModel:
        """Return the model of the recipe, on the meta device and without adapters."""
        return meta_model(self.recipe.model)

    @cached_property
    def parts(self) -> dict[ModelPart, int]:
        """Return the number of parameters of each part of the model, without adapters. The parts are the keys of the
        dict: `und` (understanding), `gen` (image generation) and `vision` (the vision tower)."""
        found = dict.fromkeys(ModelPart, 0)
        for name, parameter in self.model.named_parameters():
            found[part_of(name)] += parameter.numel()
        return found

    def trained_model(self, name: str) -> UnifiedModel:
        """Return the model on the meta device. The parameters that the process `name` (for example "rl learner") trains
        are marked as trainable. Parts of the model with learning rate 0 are marked as trainable too, because only the
        optimizer freezes them."""
        lora = self.adapters[name]
        model = meta_model(self.recipe.model, lora)
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(lora is None or is_adapter(parameter_name))
        return model

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Return a dict: name of the SFT learner process -> settings of the SFT training that it does. A recipe can
        have several such trainings, one after the other; they are its SFT stages."""
        stages = self.recipe.sft.stages if self.recipe.sft is not None else {}
        return {SFT.format(name): stage for name, stage in stages.items()}

    @cached_property
    def adapters(self) -> dict[str, LoraRecipe | None]:
        """Return a dict: name of a kind of process that trains the model (for example "rl learner") -> settings of its
        LoRA adapters. The settings are None if the process trains the model itself, without adapters."""
        found = {name: adapters_of(stage) for name, stage in self.stages.items()}
        return found if self.recipe.rl is None else found | {LEARNER: adapters_of(self.recipe.rl)}

    @cached_property
    def trainings(self) -> dict[str, EngineSettings]:
        """Return a dict: name of a kind of process that trains the model (for example "rl learner") -> settings of its
        training engine."""
        recipe, found = self.recipe, {}
        for name, stage in self.stages.items():
            found[name] = engine_settings(recipe, stage, stage.steps, recipe.sft_zero_stage)
        if (rl := recipe.rl) is not None:
            updates = rl.updates * rl.minibatches
            found[LEARNER] = engine_settings(recipe, rl, updates, recipe.engine.zero_stage)
        return found

    @cached_property
    def parameters(self) -> dict[str, Parameters]:
        """Return a dict: name of a kind of process that trains the model (for example "rl learner") -> the numbers of
        all parameters and of trained parameters in its model."""
        return {name: Parameters.of(self.trained_model(name), settings) for name, settings in self.trainings.items()}

    @property
    def place_names(self) -> list[str]:
        reinforced = [LEARNER, ROLLOUT] if self.recipe.rl is not None else []
        return [*self.stages, *reinforced, EVALUATION]

    def card_share(self, name: str) -> float:
        """Return the share of a GPU's memory that a process of the kind `name` has. In RL, several processes may share
        a GPU. All other processes have a GPU alone."""
        return self.recipe.engine.gpu_share if name in (LEARNER, ROLLOUT) else 1.0

    def place(self, name: str) -> ProcessKind:
        others = {LEARNER: self._learner, ROLLOUT: self._rollout, EVALUATION: self._evaluation}
        return others[name]() if name in others else self._sft_learner(name)

    @cached_property
    def places(self) -> list[ProcessKind]:
        return [self.place(name) for name in self.place_names]

    @cached_property
    def sync(self) -> int:
        """Return how many bytes the learner sends when it publishes its weights once. If RL trains adapters, only the
        adapters are sent; otherwise all weights."""
        return published_bytes(self.recipe.model, self.adapters.get(LEARNER))

    @cached_property
    def sampled(self) -> Sampled:
        """Return how many forward passes are needed to sample one trajectory in RL, and how much work they are. There
        are separate counts for three kinds of passes: over text tokens, over prompts and images in the context, and
        over noisy images."""
        recipe = self.recipe
        return Sampled.of(recipe, recipe.sampling.turns, recipe.rl_sampling.points, recipe.rl and recipe.rl.guidance)

    @cached_property
    def evaluated(self) -> Sampled:
        """Return how many forward passes are needed to sample one trajectory in evaluation, and how much work they are.
        There are separate counts for three kinds of passes: over text tokens, over prompts and images in the context,
        and over noisy images."""
        recipe, settings = self.recipe, self.recipe.evaluation
        points = recipe.sampling.points if settings.points is None else settings.points
        return Sampled.of(recipe, settings.turns, points, settings.guidance)

    @cached_property
    def replays(self) -> list[Pack]:
        """Return the packs (batches of token sequences) of one RL minibatch on the first learner rank. All trajectories
        are assumed to have the maximal length."""
        return replay_packs(self.recipe)

    @property
    def replay_forwards(self) -> dict[str, int]:
        """Return how many forward passes the learner runs over each pack (batch of token sequences) in RL. The keys of
        the dict are the purposes of the passes (for example "trained" or "reference"), and the values are their
        numbers."""
        return algorithm_of(self.recipe).forwards(self.recipe.engine.dtype)

    @cached_property
    def stretches(self) -> list[Stretch]:
        recipe = self.recipe
        found = []
        for name, stage in self.stages.items():
            flops = self._flops(Workload.of(self._sft_packs[name])) * (1 + self._backward(name))
            packs = -(-stage.packs_per_step // recipe.sft_ranks(stage))
            found.append(Stretch(name.removesuffix(" learner"), stage.steps, flops * packs))
        if recipe.rl is None:
            return found
        batches = -(-recipe.rl.groups // recipe.rl.largest_batch)
        rounds = -(-batches // recipe.engine.rollout_actors)
        points, guidance = recipe.rl_sampling.points, recipe.rl.guidance
        group = Sampled.of(recipe, recipe.sampling.turns, points, guidance, recipe.rl.rows)
        flops = self._flops(group.text + group.images) * recipe.rl.largest_batch
        found.append(Stretch("rl sampling", recipe.rl.updates * rounds, flops, self._read_by_texts()))
        forwards = sum(self.replay_forwards.values()) + self._backward(LEARNER)
        learned = sum(self._flops(Workload.of(pack)) for pack in self.replays) * forwards
        found.append(Stretch("rl learning", recipe.rl.updates * recipe.rl.minibatches, learned))
        return found

    def _backward(self, name: str) -> int:
        """Return the cost of a backward pass divided by the cost of a forward pass. Activation checkpointing adds 1,
        because it runs the layers again. Adapters subtract 1, because the weights of the base model need no
        gradients."""
        return BACKWARD + self.recipe.engine.activation_checkpointing - (self.adapters[name] is not None)

    @cached_property
    def _sft_packs(self) -> dict[str, Pack]:
        return {name: sft_pack(self.recipe, stage) for name, stage in self.stages.items()}

    def _flops(self, load: Workload) -> int:
        return self.matrices.flops(load)

    def _read_by_texts(self) -> int:
        """Return the number of bytes that are read from memory while a batch of groups (all trajectories of one prompt)
        decodes its texts. For each token these are the weights of the understanding expert (the layers for text and
        image patches), and the keys and values of the contexts of all trajectories in the batch."""
        rl, sampled, size = self.recipe.require_rl(), self.sampled, bytes_of(self.recipe.engine.dtype)
        weights = size * (self.matrices.und + self.matrices.logit)
        return sampled.text_tokens * (weights + self._caches(rl.group_size * rl.largest_batch, sampled.capacity))

    def _sft_learner(self, name: str) -> ProcessKind:
        pack, ranks = self._sft_packs[name], self.recipe.sft_ranks(self.stages[name])
        components = training_state(self.parameters[name], self.trainings[name], ranks)
        components += self._activations(pack, name, "full")
        copies = sft_copies(self.parameters[name], ranks)
        return self._with_copies(ProcessKind(name, ranks, components, _words(pack), copies))

    def _learner(self) -> ProcessKind:
        recipe, rl, ranks = self.recipe, self.recipe.require_rl(), self.recipe.engine.learner_ranks
        parameters, algorithm = self.parameters[LEARNER], algorithm_of(recipe)
        components = training_state(parameters, self.trainings[LEARNER], ranks)
        has_base = self.adapters[LEARNER] is not None and recipe.engine.zero_stage < 3  # then the base is the reference
        if algorithm.needs_reference and not has_base:
            components.append(Component("reference weights", self._weights()))
        longest = self.replays[0]
        components += self._activations(longest, LEARNER, rl.context_grad)
        if rl.probe_every:
            size = probe_bytes(parameters, self.trainings[LEARNER])
            components.append(Component("gradients of loss terms", size, Moment.BACKWARD))
        copies = rl_copies(parameters, algorithm, rl.ema_decay is not None, self.sync, ranks)
        return self._with_copies(ProcessKind(LEARNER, ranks, components, _words(longest), copies))

    def _with_copies(self, place: ProcessKind) -> ProcessKind:
        """Return the process with its copies of weights. On the CPU they are a part of the memory of the process."""
        own = [] if self.device == "cuda" else in_process(place.copies)
        return replace(place, components=[*place.components, *own])

    def _rollout(self) -> ProcessKind:
        rl, sampled = self.recipe.require_rl(), self.sampled
        rows, guidance = rl.group_size * rl.largest_batch, rl.guidance
        caches = 1 + (guidance is not None and guidance.image_scale > 1)
        note = f"{rows} contexts of {sampled.capacity:,} tokens"
        copied = rl.rows(max(rl.forks) - 1) * rl.largest_batch if rl.forks else 0
        components = self._sampler(rows, sampled, caches, copied)
        if (lora := self.adapters[LEARNER]) is not None:
            size = bytes_of(self.recipe.engine.dtype) * adapter_size(self.model, lora)
            components.append(Component("adapters", size))
        components += self._scorers(f"beside one of the {self.recipe.engine.rollout_actors}")
        return ProcessKind(ROLLOUT, self.recipe.engine.rollout_actors, components, note)

    def _evaluation(self) -> ProcessKind:
        settings = self.recipe.evaluation
        caches = 1 + (settings.guidance.image_scale > 1)
        note = f"{settings.batch_size} contexts of {self.evaluated.capacity:,} tokens"
        components = self._sampler(settings.batch_size, self.evaluated, caches) + self._scorers("on the same card")
        return ProcessKind(EVALUATION, 1, components, note)

    def _scorers(self, where: str) -> list[Component]:
        """Return the component of the scorers that are on a GPU, or an empty list if there are none."""
        return [Component(f"scorers, {where}", size)] if (size := self._of_scorers) else []

    @cached_property
    def _of_scorers(self) -> int:
        return on_gpu(self.recipe) if self.device == "cuda" else 0

    def _activations(self, pack: Pack, name: str, context_grad: str) -> list[Component]:
        """Return the components of the memory that the forward and backward pass of a pack needs. Parts that the
        optimizer of the stage freezes need no gradients."""
        recipe = self.recipe
        frozen = frozenset(part for part, count in self.parameters[name].trained.items() if not count)
        found = _footprint(
            recipe.model, self.adapters[name], _Key(pack), self.device, precision(recipe), context_grad, frozen,
            recipe.engine.activation_checkpointing, Backend(recipe.engine.attention),
        )  # fmt: skip
        logits = logit_bytes(len(pack.logit_index), recipe.model.llm.vocab_size, recipe.engine.dtype)
        return [
            Component("activations", found.kept, Moment.BACKWARD),
            Component("logits", logits, Moment.BACKWARD),
            Component("working memory", found.working, Moment.BACKWARD),
        ]

    def _sampler(self, rows: int, sampled: Sampled, caches: int, copied: int = 0) -> list[Component]:
        """Return the components of the memory of a process that samples. `rows` is the number of trajectories that are
        sampled at the same time, and `caches` the number of KV caches for each of them. `copied` is the number of
        trajectories whose KV caches are copied at the last fork (a point where one trajectory is continued in several
        ways). During the copy, the originals and the copies both need memory."""
        recipe = self.recipe
        working = _sampling_memory(
            recipe.model, rows, Sizes.of(recipe).grid, sampled.capacity, recipe.sampling.image_size, self.device,
            precision(recipe),
        )  # fmt: skip
        return [
            Component("weights", self._weights()),
            Component("autoencoder", FP32 * self.autoencoder),
            Component("KV caches", caches * self._caches(rows, sampled.capacity)),
            Component("working memory", max(working, self._caches(copied, sampled.capacity))),
        ]

    def _weights(self) -> int:
        """Return the bytes of the weights of a model that is not trained."""
        tables = sum(buffer.numel() for buffer in self.model.buffers())
        return bytes_of(self.recipe.engine.dtype) * sum(p.numel() for p in self.model.parameters()) + FP32 * tables

    def _caches(self, rows: int, capacity: int) -> int:
        made = KVCache(self.recipe.model.llm, rows, capacity, torch.device("meta"), precision(self.recipe))
        return sum(tensor.nbytes for tensor in made.keys + made.values)


class _Key:
    """A pack (batch of token sequences) as the argument of a cached function. Two keys are equal if their packs have
    the same sizes and so need the same memory."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        parts = (pack.text_ids, pack.latents, pack.times, pack.logit_index, pack.velocity_index)
        kinds = tuple(map(len, parts))
        branches = tuple((view.row, len(view.own), view.keys) for view in pack.views)
        shape = pack.visibility.ancestors.shape
        self._sizes = (kinds, tuple(pack.lengths), tuple(pack.patch_lengths), shape, branches)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._sizes == other._sizes

    def __hash__(self) -> int:
        return hash(self._sizes)


@cached
def _footprint(
    config: ModelConfig,
    lora: LoraRecipe | None,
    key: _Key,
    device: str,
    dtype: torch.dtype,
    context_grad: str,
    frozen: frozenset[ModelPart],
    recompute: bool,
    attention: Backend,
) -> Footprint:
    model = meta_model(config, lora)
    model.recompute_activations(recompute)
    model.attention = attention
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen and (lora is None or is_adapter(name)))
    return training_footprint(model, key.pack, device, dtype, context_grad)


@cached
def _sampling_memory(
    config: ModelConfig,
    rows: int,
    grid: tuple[int, int],
    context: int,
    size: tuple[int, int],
    device: str,
    dtype: torch.dtype,
) -> int:
    """Return the memory for drawing images: the memory of a denoising step, or that of the autoencoder after the last
    step if it is larger."""
    with torch.device("meta"):
        model = UnifiedModel(config, SpecialIds(0, 1, 2, 3)).to(dtype)
    step = velocity_footprint(model, rows, grid, context, device)
    return max(step, drawing_footprint(meta_autoencoder(config), rows, size, device))


def _words(pack: Pack) -> str:
    rows = f"{len(pack.lengths)} row{'s' if len(pack.lengths) > 1 else ''}"
    return f"a pack of {pack.tokens:,} tokens in {rows}, {len(pack.logit_index):,} of them with logits"

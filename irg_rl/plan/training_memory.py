"""Memory of the training state on one learner rank, in bytes: weights, fp32 master weights, gradients and moments of
the optimizer.

The table shows what one rank holds at each ZeRO stage of the engine. "Whole" means that each rank has everything, and
"divided" that each rank has an equal share. "In the step" means that the memory is needed only during the optimizer
step. A reduction combines the gradients of all ranks. A bucket is a buffer for a limited number of gradient values,
which are reduced together. "fp32 reduced" are the gradients after the reduction.

| per parameter        | stage 0               | 1 and 2               | 3                         |
|----------------------|-----------------------|-----------------------|---------------------------|
| weights              | whole                 | whole                 | divided, frozen ones too  |
| fp32 masters         | none                  | divided               | divided                   |
| gradients, in dtype  | whole                 | whole                 | whole                     |
| fp32 reduced         | none                  | divided, in the step  | divided, always           |
| moments              | whole                 | divided               | divided                   |
| copies to reduce     | a bucket, in the step | a bucket, in the step | a bucket, always          |

Gradients stay whole at every stage, because all backward passes of a step share one reduction (engine.py). Before this
reduction, each rank has its own gradients. The fp32 masters are a separate copy even if the model itself is in fp32.
(Sources: zero/stage_1_and_2.py and zero/stage3.py of DeepSpeed 0.19.)
"""

from dataclasses import dataclass
from enum import StrEnum

from irg_rl.algorithms.base import LOSS_TERMS
from irg_rl.learner.parts import ModelPart, make_optimizer, part_of
from irg_rl.learner.update import REDUCE_BUCKET, EngineSettings
from irg_rl.model.unified import UnifiedModel

FP32 = 4
FLAT_BUCKET = 500_000_000
"""Number of gradient values that ZeRO stage 0 copies and reduces at a time. In DeepSpeed the constant is called
MEMORY_OPT_ALLREDUCE_SIZE."""
GATHERED = SUB_GROUP = 1_000_000_000
"""Largest number of parameters that ZeRO stage 3 keeps gathered (GATHERED) and that its optimizer steps at a time
(SUB_GROUP). They are the defaults of DeepSpeed's stage3_max_live_parameters and sub_group_size."""


class Moment(StrEnum):
    """The time at which a component of the memory (for example the gradients) is needed. The peak memory is the sum of
    all ALWAYS components, plus the largest sum of any other moment.

    - ALWAYS: during the whole training
    - BACKWARD: during the forward and backward passes
    - STEP: during the optimizer step
    - PUBLISH: while the weights are sent to the samplers
    - SAVE: while a checkpoint is written
    """

    ALWAYS = "always"
    BACKWARD = "backward"
    STEP = "step"
    PUBLISH = "publication"
    SAVE = "checkpoint"


@dataclass(frozen=True)
class Component:
    name: str
    bytes: int
    moment: Moment = Moment.ALWAYS


def peak(components: list[Component]) -> int:
    """Return the peak memory in bytes that all `components` need together in one process. A component is an amount of
    memory with the moment at which it is needed, for example the gradients during the optimizer step."""
    held = {moment: sum(c.bytes for c in components if c.moment is moment) for moment in Moment}
    return held.pop(Moment.ALWAYS) + max(held.values())


def bytes_of(precision: str) -> int:
    """Return the number of bytes of one number in fp32 or bf16."""
    return {"fp32": 4, "bf16": 2}[precision]


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of the model. `parts` maps each part of the model (und, gen, vision) to its number of
    parameters. `trained` maps each part to its number of trained parameters."""

    parts: dict[ModelPart, int]
    trained: dict[ModelPart, int]
    muon: int  # number of parameters that Muon trains (one moment each); AdamW trains the others (two each)
    largest_group: int  # number of parameters of the optimizer's largest group
    tables: int  # how many numbers the fixed position tables contain

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def trained_total(self) -> int:
        return sum(self.trained.values())

    @property
    def moment_bytes(self) -> int:
        """Return the bytes of all moments of the optimizer, which are in fp32."""
        return FP32 * (2 * (self.trained_total - self.muon) + self.muon)

    @classmethod
    def of(cls, model: UnifiedModel, settings: EngineSettings) -> "Parameters":
        """Count all parameters and the trained parameters of a model. A parameter counts as trained if the optimizer
        with these engine settings would train it. The model may be on the meta device."""
        groups = make_optimizer(model, settings.optimizer).param_groups
        sizes = [sum(p.numel() for p in group["params"]) for group in groups]
        parts, trained = dict.fromkeys(ModelPart, 0), dict.fromkeys(ModelPart, 0)
        for name, parameter in model.named_parameters():
            parts[part_of(name)] += parameter.numel()
        for group, size in zip(groups, sizes):
            trained[group["part"]] += size
        muon = sum(size for group, size in zip(groups, sizes) if group.get("muon", False))
        return cls(parts, trained, muon, max(sizes), sum(b.numel() for b in model.buffers()))


def training_state(parameters: Parameters, settings: EngineSettings, ranks: int) -> list[Component]:
    """Return the components of the memory that the training state needs on one rank: weights, gradients and optimizer.
    Activations are not included."""
    stage, size = settings.zero_stage, bytes_of(settings.precision)
    trained, tables = parameters.trained_total, FP32 * parameters.tables
    moments = parameters.moment_bytes
    stepped = parameters.largest_group  # parameters that are stepped at the same time
    if stage == 0:
        return [
            Component("weights", size * parameters.total + tables),
            Component("gradients", size * trained),
            Component("optimizer moments", moments),
            Component("reduction bucket", size * min(trained, FLAT_BUCKET), Moment.STEP),
            Component("optimizer step", FP32 * stepped, Moment.STEP),  # square roots of AdamW's second moments
        ]
    whole = stage < 3
    reducing = Moment.STEP if whole else Moment.ALWAYS
    weights = size * parameters.total
    stepped = _share(stepped, ranks) if whole else min(_share(stepped, ranks), SUB_GROUP)
    gathered = [] if whole else [Component("gathered weights", size * min(GATHERED, parameters.total))]
    return [
        Component("weights", (weights if whole else _share(weights, ranks)) + tables),
        *gathered,
        Component("fp32 masters", _share(FP32 * trained, ranks)),
        Component("gradients", size * trained),
        Component("reduced gradients", _share(FP32 * trained, ranks), reducing),
        Component("reduction bucket", size * REDUCE_BUCKET, reducing),
        Component("optimizer moments", _share(moments, ranks)),
        Component("optimizer step", 2 * FP32 * stepped, Moment.STEP),  # these roots, and the gradient as one tensor
    ]


def probe_bytes(parameters: Parameters, settings: EngineSettings) -> int:
    """Return how many bytes the measurement of the gradient norms (`rl.probe_every`) needs on each rank. The
    measurement keeps the whole gradient of each loss term until all packs are processed. The result does not include
    the activations, nor the gradient of the loss term that is just being computed."""
    return len(LOSS_TERMS) * bytes_of(settings.precision) * parameters.trained_total


def logit_bytes(tokens: int, vocabulary: int, precision: str) -> int:
    """Return how many bytes the logits of a pack (batch of token sequences) need in the loss. `tokens` is the number of
    tokens with logits. The logits exist three times: in the type of the model, in fp32 for the backward pass, and as
    the fp32 gradient."""
    return tokens * vocabulary * (bytes_of(precision) + 2 * FP32)


def sync_bytes(model: UnifiedModel) -> int:
    """Return how many bytes the learner sends to the samplers when it publishes all weights of the model once. All
    weights and position tables are sent in fp32 (publish.py)."""
    return FP32 * sum(tensor.numel() for tensor in model.state_dict().values())


def _share(size: int, ranks: int) -> int:
    return -(-size // ranks)

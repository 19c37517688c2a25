"""The three parts of the model (und, gen, vision). Each part has its own learning rate, and its gradient norm is
reported separately."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from irg_rl.learner.muon import MuonAdamW


class ModelPart(StrEnum):
    UND = "und"  # the expert for text and ViT tokens, the embeddings and the output head
    GEN = "gen"  # the expert for latent tokens, the projections of latents and the time embedder
    VISION = "vision"  # the ViT, the connector and their position tables


_GEN_MODULES = ("vae2llm.", "llm2vae.", "time_embedder.", "latent_pos_embed.")
_VISION_MODULES = ("vit_model.", "connector.", "vit_pos_embed.")


def part_of(name: str) -> ModelPart:
    """Return the part of the model that a parameter belongs to: und (text and understanding), gen (image generation) or
    vision (the vision tower). `name` is the name of the parameter in the state dict of the model.
    """
    if "_moe_gen" in name or name.startswith(_GEN_MODULES):
        return ModelPart.GEN
    return ModelPart.VISION if name.startswith(_VISION_MODULES) else ModelPart.UND


@dataclass(frozen=True)
class Schedule:
    """A schedule for the learning rates. It gives a factor that changes during training, and all learning rates are
    multiplied by this factor. The factor rises linearly to 1 during the warm-up. Then it is constant, or it follows a
    cosine that reaches `floor` at `total_steps`."""

    warmup_steps: int = 0
    total_steps: int | None = None  # if None, the factor is constant after the warm-up
    floor: float = 0.0

    def factor(self, step: int) -> float:
        """Return the factor for update number `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of torch.optim.AdamW, with one learning rate for each part of the model (und, gen, vision). A rate of 0
    freezes the part.

    If `muon_rate` is given, torch.optim.Muon trains the trainable matrices of all layers with this rate instead of the
    rate of their part. This works only with ZeRO stage 0.
    """

    learning_rates: Mapping[str, float]
    muon_rate: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.learning_rates) - set(ModelPart))
        if unknown:
            raise ValueError(f"learning_rates names {unknown}; the parts are {', '.join(ModelPart)}")
        if all(rate <= 0 for rate in self.learning_rates.values()):
            raise ValueError(f"learning_rates {dict(self.learning_rates)} train nothing; set one above 0")


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return an optimizer for the trainable parameters. It is MuonAdamW if `muon_rate` is set, and AdamW otherwise. If
    the learning rate of a part of the model is 0 or missing, this part is frozen.

    Each part of the model has two groups of parameters: one with and one without weight decay. If `muon_rate` is set,
    the matrices of the layers are in separate groups, and Muon trains them. Norms, biases and other vectors have no
    weight decay. Each group stores its `part` and its `base_lr`, the learning rate before the schedule.
    """
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if settings.learning_rates.get(part, 0.0) <= 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            is_muon = settings.muon_rate is not None and ".layers." in name and parameter.ndim == 2
            groups.setdefault((part, parameter.ndim >= 2, is_muon), []).append(parameter)
    rates = [settings.muon_rate if is_muon else settings.learning_rates[part] for part, _, is_muon in groups]
    described = [
        {
            "params": parameters,
            "part": part,
            "muon": is_muon,
            "base_lr": rate,
            "lr": rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for ((part, decays, is_muon), parameters), rate in zip(groups.items(), rates)
    ]
    if any(group["muon"] for group in described):
        return MuonAdamW(described, settings.betas, settings.eps)
    return torch.optim.AdamW(described, betas=settings.betas, eps=settings.eps)

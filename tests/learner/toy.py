"""A model small enough to check by hand, with the unified model's part names: a trunk, a text and an image head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from irg_rl.learner.engine import EngineSettings, Loss
from irg_rl.learner.parts import OptimizerSettings, Schedule


@dataclass
class ToyPack:
    """[R, 4] inputs, [R] targets; `kind` says which head's loss it carries."""

    x: Tensor
    y: Tensor
    kind: str

    def to(self, device) -> "ToyPack":
        return self


class Toy(nn.Module):
    """5 x 4 trunk (odd sizes, so that no world size divides everything)."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(4, 5)
        self.head_moe_gen = nn.Linear(5, 1)
        self.connector = nn.ModuleDict({"head": nn.Linear(5, 1)})

    def forward(self, pack: ToyPack) -> Tensor:
        """[R, 2]: the text head and the image head, so that every pack touches every module."""
        hidden = torch.tanh(self.trunk(pack.x))
        return torch.cat([self.connector["head"](hidden), self.head_moe_gen(hidden)], dim=1)


def make_packs(count: int, seed: int = 1) -> list[ToyPack]:
    """Packs of different sizes, text and image in turns."""
    generator = torch.Generator().manual_seed(seed)
    packs = []
    for index in range(count):
        rows = 2 + index % 3
        x, y = torch.randn(rows, 4, generator=generator), torch.randn(rows, generator=generator)
        packs.append(ToyPack(x, y, "text" if index % 2 == 0 else "image"))
    return packs


IDLE = ToyPack(torch.ones(1, 4), torch.zeros(1), "text")


def denominators(packs: list[ToyPack]) -> dict[str, float]:
    counts = {"text": 0.0, "image": 0.0}
    for pack in packs:
        counts[pack.kind] += len(pack.y)
    return counts


def loss_of(packs: list[ToyPack]):
    """Squared error, each kind over its own global row count."""

    def loss(output: Tensor, index: int, totals: dict[str, float]) -> Loss:
        pack = packs[index]
        column = output[:, 0 if pack.kind == "text" else 1]
        error = (column - pack.y).square().sum()
        return Loss({pack.kind: error / totals[pack.kind]}, {f"{pack.kind}_sum": float(error.detach())})

    return loss


def settings(stage: int = 2, lr: float = 0.05, **changes) -> EngineSettings:
    rates = {"und": lr, "gen": 2 * lr, "vision": lr / 2}
    optimizer = OptimizerSettings(rates, weight_decay=0.01, schedule=Schedule(warmup_steps=2))
    return EngineSettings(**({"optimizer": optimizer, "zero_stage": stage, "grad_clip": 1e9} | changes))


def big_batch_gradient(model: nn.Module, packs: list[ToyPack]) -> dict[str, Tensor]:
    """The gradient that one plain torch backward over all packs gives."""
    totals = denominators(packs)
    loss = sum(loss_of(packs)(model(pack), i, totals).total() for i, pack in enumerate(packs))
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}

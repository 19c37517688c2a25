"""The IRGL loss of a pack: cross-entropy of texts plus flow-matching error of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from irg_rl.model.unified import ModelOutput
from sft.packing import SFTPack


@dataclass(frozen=True)
class Counts:
    """Global denominators: label tokens, and latent tokens with a loss, over all packs of all ranks of one step."""

    text: int
    latent: int

    @classmethod
    def of(cls, packs: list[SFTPack]) -> "Counts":
        return cls(sum(p.pack.logit_targets.numel() for p in packs), sum(p.velocities.shape[0] for p in packs))


def sft_loss(
    output: ModelOutput, pack: SFTPack, counts: Counts, ce_weight: float, mse_weight: float
) -> dict[str, Tensor]:
    """ce = sum CE / text tokens; mse = sum over latent tokens of mean_D (v - (eps - x0))^2 / latent tokens; weighted.

    The terms of several packs add up to those of one big pack.
    """
    labels = pack.pack.logit_targets.to(output.logits.device)
    ce = F.cross_entropy(output.logits.float(), labels, reduction="sum") / max(counts.text, 1)
    velocity = output.velocity
    target = pack.velocities.to(velocity)
    mse = (velocity - target).square().mean(-1).sum() / max(counts.latent, 1) if target.numel() else velocity.sum()
    return {"ce": ce_weight * ce, "mse": mse_weight * mse}


@torch.no_grad()
def right_tokens(output: ModelOutput, pack: SFTPack) -> int:
    """Number of label tokens that the model would have chosen as most likely."""
    return int((output.logits.argmax(-1).cpu() == pack.pack.logit_targets).sum())

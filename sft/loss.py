"""The loss of supervised fine-tuning in IRGL (the six learning modes of Interleaving Reasoning Generation). A pack is
one sequence of several training rows. The loss of a pack has two terms: the cross-entropy of its texts, and the
flow-matching error of its images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from irg_rl.model.unified import ModelOutput
from sft.packing import SFTPack


@dataclass(frozen=True)
class Counts:
    """Two numbers by which the loss is divided. `text` is the number of text tokens that the model should predict.
    `latent` is the number of latent tokens of the images that it should draw. Each number is counted over all packs of
    one training step, from all ranks (training processes)."""

    text: int
    latent: int

    @classmethod
    def of(cls, packs: list[SFTPack]) -> "Counts":
        return cls(sum(p.pack.logit_targets.numel() for p in packs), sum(p.velocities.shape[0] for p in packs))


def sft_loss(
    output: ModelOutput, pack: SFTPack, counts: Counts, ce_weight: float, mse_weight: float
) -> dict[str, Tensor]:
    """Return a dict with the two weighted terms of the loss of a pack (one sequence of several training rows): `ce` for
    texts and `mse` for images.

        ce = ce_weight * sum of the cross-entropies / counts.text
        mse = mse_weight * sum over latent tokens of mean_D (v - (eps - x0))^2 / counts.latent

    Here v is the velocity that the model predicts for a latent token. x0 is the clean latent, eps is the noise, and
    mean_D is the mean over the numbers of a latent token. `counts` are counted over all packs of the training step. So
    the sum of the terms over these packs is the same as for one pack with all their rows.
    """
    labels = pack.pack.logit_targets.to(output.logits.device)
    ce = F.cross_entropy(output.logits.float(), labels, reduction="sum") / max(counts.text, 1)
    velocity = output.velocity
    target = pack.velocities.to(velocity)
    mse = (velocity - target).square().mean(-1).sum() / max(counts.latent, 1) if target.numel() else velocity.sum()
    return {"ce": ce_weight * ce, "mse": mse_weight * mse}


@torch.no_grad()
def right_tokens(output: ModelOutput, pack: SFTPack) -> int:
    """Return the number of tokens that the model predicts correctly. A token counts if the model gives the highest
    probability to the label (the token that it should predict)."""
    return int((output.logits.argmax(-1).cpu() == pack.pack.logit_targets).sum())

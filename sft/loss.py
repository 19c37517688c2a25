"""The loss of supervised fine-tuning in IRGL (the six learning modes of Interleaving Reasoning Generation). A pack is
one sequence of several training rows. Its loss is the cross-entropy of the texts plus the flow-matching error of the
images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from irg_rl.model.unified import ModelOutput
from sft.packing import SFTPack


@dataclass(frozen=True)
class Counts:
    """The two numbers by which the loss is divided: the number of label tokens of texts, and the number of latent
    tokens of images that have a loss. Both are counted over all packs of all ranks (training processes) in one step."""

    text: int
    latent: int

    @classmethod
    def of(cls, packs: list[SFTPack]) -> "Counts":
        return cls(sum(p.pack.logit_targets.numel() for p in packs), sum(p.velocities.shape[0] for p in packs))


def sft_loss(
    output: ModelOutput, pack: SFTPack, counts: Counts, ce_weight: float, mse_weight: float
) -> dict[str, Tensor]:
    """Return the two weighted terms of the loss of a pack: `ce` for texts and `mse` for images.

        ce = ce_weight * sum of the cross-entropies / counts.text
        mse = mse_weight * sum over latent tokens of mean_D (v - (eps - x0))^2 / counts.latent

    Here v is the velocity that the model predicts for a latent token, x0 the clean latent, eps the noise, and mean_D
    the mean over the numbers of a latent token. `counts` covers all packs of the step. So the sum of the terms over
    these packs is the same as for one pack with all their rows.
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

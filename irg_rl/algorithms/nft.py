"""DiffusionNFT (arXiv 2509.16117) on trajectories. It moves the velocity of the model towards the velocity of good
samples and away from the velocity of bad samples."""

import torch
from torch import Tensor

from irg_rl.algorithms.joint import ImageLoss, PackImage
from irg_rl.algorithms.noising import OldPolicyAlgorithm, OldPolicySettings, at_levels, distance_metrics
from irg_rl.losses import preference
from irg_rl.sections import Rate


class NFTSettings(OldPolicySettings):
    beta: Rate = 1.0
    """The weight with which the trained velocity v and the velocity v_old of the old policy are mixed. Good images
    train v+ = beta v + (1 - beta) v_old. Bad images train v- = (1 + beta) v_old - beta v. The paper uses 0.1 with
    several rewards."""
    bound: Rate = 5.0
    """An image with this advantage or a larger one counts as good with probability 1. For smaller advantages the
    probability falls linearly; it is 0 at minus this number."""


class NFT(OldPolicyAlgorithm[NFTSettings]):
    Settings = NFTSettings

    def image_loss(self, image: PackImage) -> ImageLoss:
        v, v_old, own = image.score, image.old["velocity"], self.options
        assert isinstance(v, Tensor)
        x, t, clean = at_levels(image, v)
        optimality = preference.nft_optimality(torch.full_like(t, image.advantage), own.bound)
        loss = preference.nft_loss(v, v_old, x, clean, t, optimality, beta=own.beta, bound=own.bound)
        sides = {
            name: preference.nft_loss(
                v.detach(), v_old, x, clean, t, torch.full_like(t, good), beta=own.beta, bound=own.beta
            )
            for name, good in (("positive", 1.0), ("negative", 0.0))
        }
        return ImageLoss(loss, distance_metrics(v, v_old, image.advantage) | sides | {"optimality": optimality})

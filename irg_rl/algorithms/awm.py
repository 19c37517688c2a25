"""AWM: advantage-weighted matching (arXiv 2509.25050) on trajectories. AWM trains images with a clipped policy loss.
This loss needs the log-probability of a drawn image. Instead of this log-probability, AWM uses the negative
flow-matching error of the image."""

from typing import Literal

import torch
from torch import Tensor

from irg_rl.algorithms.joint import ImageLoss, PackImage
from irg_rl.algorithms.noising import (
    OldPolicyAlgorithm,
    OldPolicySettings,
    at_levels,
    distance_metrics,
    target_velocity,
)
from irg_rl.config import Recipe
from irg_rl.losses import preference
from irg_rl.losses.flow import log_ratio, policy_loss
from irg_rl.sections import Rate


class AWMSettings(OldPolicySettings):
    weight: Literal["uniform", "t", "t2", "huber", "ghuber"] = "uniform"
    """Kind of the weight w(t) that multiplies the flow-matching error at time t in the log-probability."""
    power: Rate = 0.25
    """Exponent of the weight. It is used only if `weight` is ghuber."""
    clip: Rate = 1.0
    """Clip range of the probability ratio between the trained policy and the old policy."""


class AWM(OldPolicyAlgorithm[AWMSettings]):
    Settings = AWMSettings

    def problems(self, recipe: Recipe) -> list[str]:
        own, usual = self.options, AWMSettings()
        found = super().problems(recipe)
        if own.weight != "ghuber" and own.power != usual.power:
            found.append(
                f"rl.options.power has no effect with rl.options.weight {own.weight}: set rl.options.weight=ghuber or "
                f"rl.options.power={usual.power}"
            )
        return found

    def image_loss(self, image: PackImage) -> ImageLoss:
        v, v_old, own = image.score, image.old["velocity"], self.options
        assert isinstance(v, Tensor)
        _, t, _ = at_levels(image, v)
        target = target_velocity(image, v)
        logp, logp_old = (
            preference.awm_log_prob(velocity, target, t, own.weight, own.power) for velocity in (v, v_old)
        )
        ratio = log_ratio(logp, logp_old)
        loss = policy_loss(ratio, torch.full_like(t, image.advantage), own.clip)
        metrics = distance_metrics(v, v_old, image.advantage) | {"log_prob": logp.detach()}
        return ImageLoss(loss, metrics, ratio, own.clip)

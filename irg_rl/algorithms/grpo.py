"""GRPO on texts and on the denoising steps of images. The tokens of texts and the denoising steps use the same clipped
policy loss. For images this method is known as Flow-GRPO (arXiv 2505.05470)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.algorithms import old_policy
from irg_rl.algorithms.base import RankContext
from irg_rl.algorithms.joint import ImageLoss, JointAlgorithm, PackImage
from irg_rl.algorithms.old_policy import OldPolicy
from irg_rl.config import Recipe
from irg_rl.learner.policy import PackScores, StepScore, evaluate
from irg_rl.learner.replay import ReplayPack
from irg_rl.losses import flow
from irg_rl.model.unified import ModelOutput
from irg_rl.sections import Rate, Section
from irg_rl.trajectory import SamplingLaw, Trajectory


class GRPOSettings(Section):
    clip_image: Rate = 1e-3
    """Clip range of images: the ratio of a denoising step is clipped to [1 - clip_image, 1 + clip_image]. The
    log-probability of a step is a mean over the numbers of the latent, so the ratios stay close to 1."""
    ratio_norm: bool = False
    """Whether to normalise the ratios, so that the ratios of all steps have the same scale and are centred at 1
    (GRPO-Guard, arXiv 2510.22319). Normalised ratios need a larger clip range."""
    kl_space: Literal["velocity", "mean"] = "velocity"
    """The distance to the base model that `rl.kl_image` weights. "velocity": the squared distance of the two velocities
    (UniGRPO). "mean": the KL divergence of the two Gaussians of a denoising step, computed from their means
    (Flow-GRPO)."""


class GRPO(JointAlgorithm[GRPOSettings]):
    Settings = GRPOSettings

    @property
    def records_steps(self) -> bool:
        """Return whether the sampler stores the denoising steps. They are needed only if images are part of the
        loss."""
        return self.shared.image_weight > 0

    @property
    def clip_image(self) -> float:
        return self.options.clip_image

    def forwards(self, precision: str) -> dict[str, int]:
        old = {"old log-probabilities": 1} if precision == "bf16" else {}
        return {"trained": 1} | old | super().forwards(precision)

    def problems(self, recipe: Recipe) -> list[str]:
        usual, problems = GRPOSettings(), super().problems(recipe)
        if self.options.kl_space != usual.kl_space and not self.shared.kl_image:
            problems.append("rl.options.kl_space has no effect with rl.kl_image 0: give rl.kl_image, or leave it out")
        if self.options.ratio_norm and not self.shared.image_weight:
            problems.append("rl.options.ratio_norm has no effect with rl.image_weight 0: leave it out")
        return problems

    def notes(self, recipe: Recipe) -> list[str]:
        rl, found = recipe.require_rl(), super().notes(recipe)
        if rl.minibatches > 1 or rl.staleness or recipe.engine.dtype != "fp32":
            return found
        return [
            *found,
            "one optimizer step per batch, by the weights that sampled it: all ratios are 1, and rl.clip_text and "
            "rl.options.clip_image clip nothing (rl.minibatches or rl.staleness change that)",
        ]

    def before_update(self, rank: RankContext, trajectories: Sequence[Trajectory]) -> OldPolicy:
        """Return the log-probabilities of the trajectories under the old policy.

        In fp32, they are the log-probabilities that the sampler has stored. The learner would compute the same numbers
        with the same weights. In bf16, learner and sampler compute different numbers. So the learner computes the
        log-probabilities again, before this update changes its weights.
        """
        if rank.precision == "bf16":
            return old_policy.recompute(rank.engine, rank.packs(trajectories), trajectories, rank.law)
        return old_policy.sampled(trajectories)

    def evaluate(
        self, output: ModelOutput, replay: ReplayPack, trajectories: Sequence[Trajectory], law: SamplingLaw
    ) -> PackScores[StepScore]:
        return evaluate(output, replay, trajectories, law)

    def image_loss(self, image: PackImage) -> ImageLoss:
        score = image.score
        assert isinstance(score, StepScore)
        log_ratio = flow.log_ratio(score.logprobs, image.old["logprobs"])
        if self.options.ratio_norm:
            log_ratio = flow.guarded_log_ratio(
                score.logprobs, image.old["logprobs"], score.mean, image.old["mean"], score.std
            )
        clip = self.options.clip_image
        per_step = flow.policy_loss(log_ratio, torch.full_like(log_ratio, image.advantage), clip)
        return ImageLoss(per_step, log_ratio=log_ratio, clip=clip)

    def image_kl(self, score: StepScore, reference: StepScore) -> Float[Tensor, "S"]:
        if self.options.kl_space == "mean":
            return flow.mean_kl(score.mean, reference.mean, score.std)
        return super().image_kl(score.velocity, reference.velocity)

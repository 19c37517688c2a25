"""Training on drawn images with fresh noise.

    x_t = (1 - t) drawn + t noise

An image is stored as two latents. Training uses `drawn`, because `latent` contains the error of the autoencoder:
* `drawn` is the latent at t = 0 that the sampler has drawn. It is a sample of the old policy. The pixels were decoded
  from it.
* `latent` was made by encoding the pixels again. It is a sample from the autoencoder's posterior. Later turns see it as
  the image.

The denoising steps of the sampler are not needed. So the sampler may use any time grid, guidance, and noise or no
noise. GRPO stores a state `x` and a time `t` for each recorded step. Here x_t and t are stored in these two fields. So
replay packs are built as for GRPO.

Letters in shapes: S noise levels of an image, N latent tokens, D numbers per latent token.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import field_validator
from torch import Tensor

from irg_rl import flow
from irg_rl.algorithms import old_policy
from irg_rl.algorithms.base import RankContext
from irg_rl.algorithms.joint import JointAlgorithm, PackImage
from irg_rl.algorithms.old_policy import OldPolicy
from irg_rl.config import Recipe
from irg_rl.curve import RL, UPDATES, Curve
from irg_rl.learner.old_weights import OldPolicySchedule
from irg_rl.learner.policy import PackScores, evaluate_texts, velocities
from irg_rl.learner.replay import ReplayPack
from irg_rl.model.unified import ModelOutput
from irg_rl.sections import Positive, Section
from irg_rl.streams import stream
from irg_rl.trajectory import Group, ImageSegment, SamplingLaw, Trajectory


class NoisingSettings(Section):
    times_per_image: Positive = 4
    """Number of noise levels at which each image is trained in an update. The range of levels is divided into this many
    parts, and one level is drawn from each part."""
    time_range: tuple[float, float] = (0.02, 1.0)
    """Smallest and largest noise level. Level 1 is pure noise."""

    @field_validator("time_range")
    @classmethod
    def range_is_of_times(cls, span: tuple[float, float]) -> tuple[float, float]:
        low, high = span
        if not 0 < low < high <= 1:
            raise ValueError(f"[{low}, {high}] must satisfy 0 < smallest < largest <= 1")
        return span


class OldPolicySettings(NoisingSettings):
    old: OldPolicySchedule = OldPolicySchedule()
    """The schedule by which the sampling weights (the old policy) follow the trained weights."""


Levels = TypeVar("Levels", bound=NoisingSettings)
Followed = TypeVar("Followed", bound=OldPolicySettings)


class NoisedAlgorithm(JointAlgorithm[Levels]):
    """An algorithm that trains the model's velocity on drawn images at fresh noise levels. `PackImage.score` is this
    velocity."""

    Settings = NoisingSettings

    @property
    def levels_per_image(self) -> int:
        return self.options.times_per_image

    def problems(self, recipe: Recipe) -> list[str]:
        found, name = super().problems(recipe), recipe.require_rl().algorithm
        if not self.shared.image_weight:
            found.append(f"rl.image_weight 0 leaves rl.algorithm {name} nothing to do: take grpo")
        return found

    def prepared(self, rank: RankContext, groups: Sequence[Group]) -> Sequence[Group]:
        return noised(groups, self.options, self.shared.shift, rank.seed, self.noise_name(rank))

    def noise_name(self, rank: RankContext) -> int:
        """Return a number that identifies this update. It is part of the seed of the noise, so that every update gets
        new noise."""
        return rank.begun

    def evaluate(
        self, output: ModelOutput, replay: ReplayPack, trajectories: Sequence[Trajectory], law: SamplingLaw
    ) -> PackScores[Tensor]:
        return PackScores(evaluate_texts(output, replay, law), velocities(output, replay))


class OldPolicyAlgorithm(NoisedAlgorithm[Followed]):
    """An algorithm that compares the velocity of the trained policy with the velocity of an old policy. The samples are
    drawn with the old policy. Both policies get the same noise and times."""

    Settings = OldPolicySettings
    curves = (
        Curve("Distance from the old velocity", RL, r"image/(?P<line>turn\d+)/v_distance", "mean squared difference",
              UPDATES, log_scale=True),
        Curve("Norm of the velocity over the old one's", RL, r"image/(?P<line>turn\d+)/v_norm", "ratio", UPDATES),
    )  # fmt: skip

    @property
    def old_schedule(self) -> OldPolicySchedule:
        return self.options.old

    def forwards(self, precision: str) -> dict[str, int]:
        return {"trained": 1, "old policy": 1} | super().forwards(precision)

    def noise_name(self, rank: RankContext) -> int:
        assert rank.old is not None
        return rank.old.updates

    def before_minibatch(
        self, rank: RankContext, known: OldPolicy, own: Sequence[Trajectory], replays: Sequence[ReplayPack]
    ) -> OldPolicy:
        """Return the velocities of the minibatch's images under the old weights. In bf16, also return the
        log-probabilities of its texts under the old weights. `own` has the trajectories of the minibatch, and `replays`
        their packs on this rank. `known` is not used."""
        assert rank.old is not None
        texts = rank.precision == "bf16"
        return old_policy.of_weights(rank.engine, rank.old.weights, replays, own, rank.law, texts)


def at_levels(
    image: PackImage, v: Float[Tensor, "S N D"]
) -> tuple[Float[Tensor, "S N D"], Float[Tensor, "S"], Float[Tensor, "S N D"]]:
    """Return three tensors for the noise levels of one image: the noisy states x_t, the noise levels t, and the drawn
    image repeated for every level. They are on the device of `v`."""
    segment, steps = image.segment, image.steps
    assert segment.drawn is not None  # given pictures get no noise
    x, t = segment.x[steps].to(v.device), segment.t[steps].to(v.device)
    return x, t, segment.drawn.to(v.device).expand_as(x)


def target_velocity(image: PackImage, v: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
    """Return the target of flow matching, the velocity noise - drawn, for each noise level of the image. The result has
    the shape and the device of `v`, the velocity that the model predicts."""
    x, t, clean = at_levels(image, v)
    return (x - clean) / t[:, None, None]


def distance_metrics(v: Float[Tensor, "S N D"], v_old: Float[Tensor, "S N D"], advantage: float) -> dict[str, Tensor]:
    """Return three metrics with one number per noise level. `v_old` is the velocity of the old policy.
    * `v_distance`: the mean squared difference of `v` and `v_old`
    * `v_norm`: the norm of `v` divided by the norm of `v_old`
    * `good`: 1 if the image was good (its advantage is above 0), otherwise 0"""
    metrics = {"v_distance": flow.over_latent((v.detach() - v_old) ** 2, 1), "v_norm": _norm(v.detach()) / _norm(v_old)}
    metrics["good"] = torch.full((len(v),), float(advantage > 0), device=v.device)
    return metrics


def _norm(v: Float[Tensor, "S N D"]) -> Float[Tensor, "S"]:
    return v.flatten(1).norm(dim=1)


def noised(
    groups: Sequence[Group], settings: NoisingSettings, shift: float, seed: int, update: int
) -> list[Group]:
    """Return copies of the groups. In the copies, each image with an advantage has fresh noise in place of its
    denoising steps: random noise levels, and the noisy states at these levels. Images without an advantage get no
    noise. `shift` is the timestep shift of the noise levels.

    The random numbers of noise and times depend on (seed, update, group, sample, index of the segment). Several
    trajectories may share an image. Such an image gets noise only once, and the copies share it, too. Its random
    numbers depend on the sample number of the first trajectory that has the image.
    """
    known: dict[int, ImageSegment] = {}
    return [
        replace(
            group,
            trajectories=[
                replace(
                    t,
                    segments=[
                        _noised(s, settings, shift, (seed, update, group.id, t.sample, place), known)
                        if isinstance(s, ImageSegment)
                        else s
                        for place, s in enumerate(t.segments)
                    ],
                )
                for t in group.trajectories
            ],
        )
        for group in groups
    ]


def _noised(
    image: ImageSegment,
    settings: NoisingSettings,
    shift: float,
    name: tuple[int, ...],
    known: dict[int, ImageSegment],
) -> ImageSegment:
    if id(image) not in known:
        count = 0 if image.drawn is None or image.advantage is None else settings.times_per_image
        numbers = stream("forward process", *name)
        t = times(count, settings.time_range, shift, numbers)
        noise = torch.from_numpy(numbers.standard_normal((count, *image.latent.shape), dtype=np.float32))
        clean = image.latent if image.drawn is None else image.drawn
        known[id(image)] = with_states(image, flow.interpolate(clean.expand_as(noise), noise, t), t)
    return known[id(image)]


def with_states(image: ImageSegment, x: Float[Tensor, "S N D"], t: Float[Tensor, "S"]) -> ImageSegment:
    """Return a copy of the image segment that stores the noisy states `x` at the flow times `t`. They replace the
    denoising steps that the sampler has recorded."""
    nothing = torch.zeros(0)
    return replace(image, x=x, t=t, x_next=nothing, mean=nothing, t_next=nothing, logprobs=nothing)


def times(
    count: int, span: tuple[float, float], shift: float, numbers: np.random.Generator
) -> Float[Tensor, "S"]:
    """Return `count` random noise levels. `span` is (low, high), the smallest and the largest possible level. `numbers`
    is the generator of random numbers.

    One uniform random number is drawn from each of `count` equal parts of [0, 1). These random numbers are shifted by
    `shift` in the same way as the sampler's times. Then they are scaled to [low, high].
    """
    u = torch.from_numpy((np.arange(count) + numbers.random(count)) / max(count, 1))
    low, high = span
    return (low + (high - low) * flow.shifted(u, shift)).float()

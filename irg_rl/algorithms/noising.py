"""Training on images that were drawn, noised afresh: DiffusionNFT and AWM on trajectories.

    x_t = (1 - t) drawn + t noise

`drawn` is the state at t = 0 at which the sampler arrived and which the pixels show: a sample of the old policy, which
is what both losses are about. `latent`, by which later turns know the image, is something else: the pixels encoded
again, a sample of the posterior, with the error of the autoencoder in it.

The sampler's own steps are not needed: it may have drawn with or without noise, guided, on any time grid. x_t takes the
place of a recorded step (`x`, `t`), so replay packs are built as for GRPO. Old and new policy see the same noise and
times.

Letters: S noise levels of an image, N latent tokens, D numbers of a latent token.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl import flow
from irg_rl.config import AWMRecipe, NFTRecipe, NoisingRecipe
from irg_rl.losses import preference
from irg_rl.losses.flow import log_ratio, policy_loss
from irg_rl.streams import stream
from irg_rl.trajectory import Group, ImageSegment


def noised(
    groups: Sequence[Group], settings: NoisingRecipe, shift: float, seed: int, update: int
) -> list[Group]:
    """The groups with fresh noisings in place of denoising steps; images without an advantage have none.

    Noise and times have the name (seed, update, group, sample, place of the segment); a segment that siblings share is
    one object again, with the name of the first of them.
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
    settings: NoisingRecipe,
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
        nothing = torch.zeros(0)
        known[id(image)] = replace(
            image, x=flow.interpolate(clean.expand_as(noise), noise, t), t=t, x_next=nothing, mean=nothing,
            t_next=nothing, logprobs=nothing,
        )  # fmt: skip
    return known[id(image)]


def times(
    count: int, span: tuple[float, float], shift: float, numbers: np.random.Generator
) -> Float[Tensor, "S"]:
    """One uniform number from each of `count` equal parts of [0, 1), shifted as the sampler's times are, then stretched
    over [low, high]."""
    u = torch.from_numpy((np.arange(count) + numbers.random(count)) / max(count, 1))
    low, high = span
    return (low + (high - low) * flow.shifted(u, shift)).float()


def image_loss(
    settings: NFTRecipe | AWMRecipe,
    v: Float[Tensor, "S N D"],
    v_old: Float[Tensor, "S N D"],
    image: ImageSegment,
    steps: list[int],
) -> tuple[Float[Tensor, "S"], dict[str, Tensor], Tensor | None]:
    """Loss of the noise levels `steps` of an image with an advantage, its metrics, and AWM's log ratio."""
    x, t = image.x[steps].to(v.device), image.t[steps].to(v.device)
    clean = image.drawn.to(v.device).expand_as(x)
    advantages = torch.full_like(t, image.advantage)
    metrics = {"v_distance": flow.over_latent((v.detach() - v_old) ** 2, 1), "v_norm": _norm(v.detach()) / _norm(v_old)}
    metrics["good"] = (advantages > 0).float()
    if isinstance(settings, NFTRecipe):
        loss, own = _nft(settings, v, v_old, x, clean, t, advantages)
        return loss, metrics | own, None
    target = (x - clean) / t[:, None, None]  # noise - clean
    logp, logp_old = (
        preference.awm_log_prob(velocity, target, t, settings.weight, settings.power) for velocity in (v, v_old)
    )
    ratio = log_ratio(logp, logp_old)
    return policy_loss(ratio, advantages, settings.clip), metrics | {"log_prob": logp.detach()}, ratio


def _nft(
    settings: NFTRecipe, v: Tensor, v_old: Tensor, x: Tensor, clean: Tensor, t: Tensor, advantages: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    optimality = preference.nft_optimality(advantages, settings.bound)
    loss = preference.nft_loss(v, v_old, x, clean, t, optimality, beta=settings.beta, bound=settings.bound)
    sides = {
        name: preference.nft_loss(
            v.detach(), v_old, x, clean, t, torch.full_like(t, good), beta=settings.beta, bound=settings.beta
        )
        for name, good in (("positive", 1.0), ("negative", 0.0))
    }
    return loss, sides | {"optimality": optimality}


def _norm(v: Float[Tensor, "S N D"]) -> Float[Tensor, "S"]:
    return v.flatten(1).norm(dim=1)

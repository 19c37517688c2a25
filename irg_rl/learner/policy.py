"""Compute the log-probabilities of sampled tokens and denoising steps under the current policy.

Letters in the shapes: T tokens of a text, S denoising steps of one image that are in the pack, N latent tokens of an
image, D numbers of a latent token.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl import flow
from irg_rl.config import NoiseRecipe, SamplingRecipe
from irg_rl.learner.replay import ReplayPack
from irg_rl.model.unified import ModelOutput
from irg_rl.trajectory import SamplingLaw, Trajectory


@dataclass
class TextScore:
    logprobs: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]  # entropy of the sampling distribution, in nats, without gradient


@dataclass
class StepScore:
    velocity: Float[Tensor, "S N D"]
    mean: Float[Tensor, "S N D"]
    std: Float[Tensor, "S"]
    logprobs: Float[Tensor, "S"]  # log-probability of each step, as a mean over the numbers of the latent


ImageScore = TypeVar("ImageScore", StepScore, Tensor)
"""Type of the result for one image. It is a StepScore if the recorded denoising steps are replayed. It is a tensor of
velocities [S, N, D] if new noise is added to the image instead.
"""


@dataclass
class PackScores(Generic[ImageScore]):
    """The scores (log-probabilities and related values) of the sampled texts and images in one pack, the input of one
    forward pass. A `ReplayPack` has a pack and two lists, `texts` and `images`, that say where its sampled texts and
    images are. The scores are in the order of these lists."""

    texts: list[TextScore]
    images: list[ImageScore]


def sampling_law(sampling: SamplingRecipe, noise: NoiseRecipe | None, dtype: str) -> SamplingLaw:
    """Return the sampling law: the settings that change the log-probabilities of samples (the temperature, the noise
    and the number type). The sampler and the learner both call this function, each with its own settings. Then the two
    results can be compared. If `noise` is None, the law covers only texts."""
    if noise is None:
        return SamplingLaw(sampling.temperature, None, None, None, dtype)
    second = float(flow.bagel_grid(sampling.points, sampling.shift)[1])
    return SamplingLaw(sampling.temperature, noise.kind, noise.noise_level, second, dtype)


def evaluate(
    output: ModelOutput, replay: ReplayPack, trajectories: Sequence[Trajectory], law: SamplingLaw
) -> PackScores[StepScore]:
    """Return the scores (log-probabilities and related values) of all sampled texts and images in one pack (the input
    of one forward pass), in fp32. `output` is the model's output for this pack. If it has gradients, the scores have
    gradients, too. `law` has the settings of the sampling."""
    return PackScores(evaluate_texts(output, replay, law), _images(output, replay, trajectories, law))


def velocities(output: ModelOutput, replay: ReplayPack) -> list[Float[Tensor, "S N D"]]:
    """Return the velocities that the model computed for the noisy states of every image in the pack (the input of one
    forward pass): one tensor for each entry of `replay.images`, in this order."""
    slices = replay.pack.velocity_slices
    return [torch.stack([output.velocity[slices[block]] for block in ref.blocks]) for ref in replay.images]


def evaluate_texts(output: ModelOutput, replay: ReplayPack, law: SamplingLaw) -> list[TextScore]:
    """Return only the scores (log-probabilities and entropy) of the sampled texts in the pack. `evaluate` returns these
    and the scores of the images."""
    # Imported here because the import of trl takes ten seconds. The driver imports this module but computes no scores.
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    if not replay.texts:
        return []
    logits = output.logits.float() / law.temperature
    targets = replay.pack.logit_targets.to(logits.device)
    logprobs = selective_log_softmax(logits[None], targets[None])[0]
    entropy = entropy_from_logits(logits.detach())
    slices = [replay.pack.logit_slices[ref.block] for ref in replay.texts]
    return [TextScore(logprobs[part], entropy[part]) for part in slices]


def _images(
    output: ModelOutput, replay: ReplayPack, trajectories: Sequence[Trajectory], law: SamplingLaw
) -> list[StepScore]:
    """Return the scores (log-probabilities and related values) of the images in the pack. All images of the same size
    are computed in one call of `flow.transition`."""
    if not replay.images:
        return []
    if law.kind is None or law.noise_level is None:
        raise ValueError("this is the law of texts alone: it has no denoising steps to score")
    scores: dict[int, StepScore] = {}
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, ref in enumerate(replay.images):
        by_size[ref.of(trajectories).x.shape[1]].append(index)
    for members in by_size.values():
        refs = [replay.images[index] for index in members]
        counts = [len(ref.steps) for ref in refs]
        velocity = torch.stack(
            [output.velocity[replay.pack.velocity_slices[block]] for ref in refs for block in ref.blocks]
        )
        x, x_next, t, t_next = (
            torch.cat([vars(ref.of(trajectories))[name][list(ref.steps)] for ref in refs]).to(velocity.device)
            for name in ("x", "x_next", "t", "t_next")
        )
        mean, std = flow.transition(x, velocity, t, t_next, law.noise_level, law.kind, t_second=law.t_second)
        logprobs = flow.log_prob(x_next, mean, std, kind=law.kind)
        parts = (part.split(counts) for part in (velocity, mean, std, logprobs))
        for index, *own in zip(members, *parts):
            scores[index] = StepScore(*own)
    return [scores[index] for index in range(len(replay.images))]

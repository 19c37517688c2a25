"""Values of the old policy, with which the trained policy is compared in a loss: log-probabilities for importance
ratios, and velocities for the algorithms NFT and AWM.

In fp32 the log-probabilities that the sampler has stored are used, because the learner would compute the same numbers
(invariant 1 of docs/architecture.md). In bf16 the learner computes them again in the same packs, because different
kernels give results that differ by more than a clip range. The sampler's log-probabilities are then used to correct
this mismatch.

With NFT and AWM, the samples were drawn with the old weights. So the velocities, and in bf16 the log-probabilities of
texts, are computed with the old weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irg_rl.learner.policy import PackScores, evaluate, evaluate_texts, velocities
from irg_rl.learner.replay import ReplayPack
from irg_rl.trajectory import ImageSegment, SamplingLaw, Trajectory

PackKey = tuple[int, int]
"""(index of the trajectory, index of the segment in the trajectory)."""


@dataclass
class OldPolicy:
    """Values of the old policy without gradient. Each dict maps (index of the trajectory, index of the segment) to a
    tensor.

    `text` contains log-probabilities of tokens, shape [T]. `image` contains log-probabilities of denoising steps, shape
    [S]. `mean` (means of the steps) and `velocity` have the shape [S, N, D]. Here T is the number of tokens, S of
    steps, N of latent tokens, and D of numbers per latent token. `recomputed` says whether the learner has computed the
    log-probabilities of texts itself.
    """

    text: dict[PackKey, Tensor] = field(default_factory=dict)
    image: dict[PackKey, Tensor] = field(default_factory=dict)
    mean: dict[PackKey, Tensor] = field(default_factory=dict)
    velocity: dict[PackKey, Tensor] = field(default_factory=dict)
    recomputed: bool = False

    def shifted(self, first: int) -> "OldPolicy":
        """Return the same values for a shorter list of trajectories. The shorter list begins at trajectory number
        `first` of the long list, which gets the index 0."""
        text, image, mean, velocity = (
            {(index - first, place): value for (index, place), value in values.items()}
            for values in (self.text, self.image, self.mean, self.velocity)
        )
        return OldPolicy(text, image, mean, velocity, self.recomputed)

    def of_image(self, trajectory: int, segment: int, steps: list[int], device: torch.device) -> dict[str, Tensor]:
        """Return a dict with the stored values of the old policy for the denoising steps `steps` of one image:
        `logprobs` [S], `mean` [S, N, D] and `velocity` [S, N, D]. A value that is not stored for this image is left
        out."""
        known = {"logprobs": self.image, "mean": self.mean, "velocity": self.velocity}
        key = trajectory, segment
        return {
            name: values[key][steps].to(device)
            for name, values in known.items()
            if key in values and len(values[key]) > max(steps)
        }


def sampled(trajectories: Sequence[Trajectory]) -> OldPolicy:
    """Return the values of the old policy that the sampler has stored in the trajectories: the log-probabilities of
    tokens and denoising steps, and the means of the denoising steps."""
    old = OldPolicy()
    for index, trajectory in enumerate(trajectories):
        for place, segment in enumerate(trajectory.segments):
            if isinstance(segment, ImageSegment):
                old.image[index, place], old.mean[index, place] = segment.logprobs, segment.mean
            else:
                old.text[index, place] = segment.logprobs
    return old


def recompute(engine, replays: Sequence[ReplayPack], trajectories: Sequence[Trajectory], law: SamplingLaw) -> OldPolicy:
    """Compute the log-probabilities of texts and denoising steps, and the means of the denoising steps, with the
    learner's current weights, and return them. Call this before the trajectories are trained, because the weights
    change then. All ranks must call it together."""
    old = sampled(trajectories)
    old.recomputed = True
    old.image = {key: value.clone() for key, value in old.image.items()}
    old.mean = {key: value.clone() for key, value in old.mean.items()}

    def read(output, index: int) -> None:
        replay = replays[index]
        _enter(old, replay, evaluate(output, replay, trajectories, law))

    engine.evaluate([replay.pack for replay in replays], read)
    return old


def of_weights(
    engine, weights: Mapping[str, Tensor], replays: Sequence[ReplayPack], trajectories: Sequence[Trajectory],
    law: SamplingLaw, texts: bool,
) -> OldPolicy:  # fmt: skip
    """Compute the velocities of noised images with `weights`, the weights of the old policy, and return them. If
    `texts` is true, also compute the log-probabilities of texts with these weights. Otherwise return the
    log-probabilities that the sampler has stored. All ranks must call this together."""
    old = sampled(trajectories)
    old.recomputed = texts

    def read(output, index: int) -> None:
        replay = replays[index]
        for ref, velocity in zip(replay.images, velocities(output, replay)):
            kept = old.velocity.setdefault(
                (ref.trajectory, ref.segment), torch.zeros_like(ref.of(trajectories).x)
            )
            kept[list(ref.steps)] = velocity.cpu()
        if texts:
            _enter(old, replay, PackScores(evaluate_texts(output, replay, law), []))

    with engine.holding(weights):
        engine.evaluate([replay.pack for replay in replays], read)
    return old


@torch.no_grad()
def _enter(old: OldPolicy, replay: ReplayPack, scores: PackScores) -> None:
    for ref, score in zip(replay.texts, scores.texts):
        old.text[ref.trajectory, ref.segment] = score.logprobs.cpu()
    for ref, score in zip(replay.images, scores.images):
        steps = list(ref.steps)
        old.image[ref.trajectory, ref.segment][steps] = score.logprobs.cpu()
        old.mean[ref.trajectory, ref.segment][steps] = score.mean.cpu()

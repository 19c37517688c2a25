"""Values of the old policy. A loss compares the trained policy with these values. They are log-probabilities for
importance ratios, and velocities for the algorithms NFT and AWM.

In fp32 the stored log-probabilities of the sampler are used. The learner would compute the same numbers (invariant 1 of
docs/architecture.md). In bf16 the numbers of sampler and learner differ by more than a clip range, because their
kernels are different. So the learner computes the log-probabilities again in the same packs. The sampler's
log-probabilities are then used to correct this mismatch.

With NFT and AWM, the samples were drawn with the old weights. So the learner computes the velocities with the old
weights. In bf16 it also computes the log-probabilities of texts with the old weights.
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
    [S]. `mean` (means of the steps) and `velocity` have the shape [S, N, D]. Here T, S and N are the numbers of tokens,
    steps and latent tokens. D is the number of values per latent token. `recomputed` says whether the learner has
    computed the log-probabilities of texts itself.
    """

    text: dict[PackKey, Tensor] = field(default_factory=dict)
    image: dict[PackKey, Tensor] = field(default_factory=dict)
    mean: dict[PackKey, Tensor] = field(default_factory=dict)
    velocity: dict[PackKey, Tensor] = field(default_factory=dict)
    recomputed: bool = False

    def shifted(self, first: int) -> "OldPolicy":
        """Return the same values for a shorter list of trajectories: the list without its first `first` entries.
        Trajectory number `first` then gets the index 0."""
        text, image, mean, velocity = (
            {(index - first, place): value for (index, place), value in values.items()}
            for values in (self.text, self.image, self.mean, self.velocity)
        )
        return OldPolicy(text, image, mean, velocity, self.recomputed)

    def of_image(self, trajectory: int, segment: int, steps: list[int], device: torch.device) -> dict[str, Tensor]:
        """Return a dict with the stored values of the old policy for one image: `logprobs` [S], `mean` [S, N, D] and
        `velocity` [S, N, D]. `trajectory` and `segment` are the indices of the trajectory and of the image in it.
        `steps` are the indices of the denoising steps to return. A value that is not stored for this image is left out.
        """
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
    """Return values under the learner's current weights: the log-probabilities of texts and denoising steps, and the
    means of the denoising steps. `replays` are the packs of the trajectories on this rank, and `law` holds the sampling
    settings. Call this before the trajectories are trained, because training changes the weights. All ranks must call
    it together."""
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
    """Return the velocities of noised images and the log-probabilities of texts under the old policy. The velocities
    are computed with `weights`, the weights of the old policy. If `texts` is true, the log-probabilities are computed
    with these weights, too. Otherwise they are the log-probabilities that the sampler has stored. All ranks must call
    this together."""
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

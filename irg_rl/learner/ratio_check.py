"""Check that the learner computes the same log-probabilities as the sampler before the first update (invariant 1 of
docs/architecture.md).

In fp32, |difference| may be at most 1e-4 for each text token, and at most clip_range / 5 for each denoising step of an
image. If a limit is exceeded, the run stops and the message names the worst difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.errors import UserError
from irg_rl.learner.policy import PackScores, StepScore, evaluate
from irg_rl.learner.reduce import gather_objects
from irg_rl.learner.replay import ReplayPack
from irg_rl.trajectory import Modality, SamplingLaw, Trajectory

TEXT_TOLERANCE = 1e-4
IMAGE_SHARE_OF_CLIP = 5


class RatioError(UserError, RuntimeError):
    """Raised if the policy of the learner is not the policy from which the samples were drawn."""


@dataclass
class LogprobDifference:
    """Statistics of the absolute differences between the learner's and the sampler's log-probabilities. There is one
    such object for all texts of one turn, and one for each turn and denoising step of the images. `modality` says
    whether it is for texts or images. For texts, `step` is None, and the statistics are over all tokens."""

    modality: str
    turn: int
    step: int | None
    count: int = 0
    total: float = 0.0
    largest: float = 0.0
    where: str = ""
    limit: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def exceeds(self) -> bool:
        return not self.largest <= self.limit

    def complaint(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return (
            f"the replayed {self.modality} log-probability of turn {self.turn}{step} differs from the sampled one by "
            f"{self.largest:.3g} (limit {self.limit:.3g}; {self.where}): sampler and learner are different policies"
        )

    def row(self) -> dict:
        """Return the statistics as a dict. The report shows it as one row of a table."""
        return {
            "modality": self.modality, "turn": self.turn, "step": self.step, "count": self.count, "mean": self.mean,
            "max": self.largest, "limit": self.limit,
        }  # fmt: skip


def require_law(trajectories: Sequence[Trajectory], law: SamplingLaw) -> None:
    """Check that all trajectories were sampled under the sampling law of the learner, `law`. A sampling law is the
    temperature, the noise and the number type of the sampling. Raises RatioError if a trajectory has no sampling law,
    or if its sampling law differs from `law`.
    """
    for trajectory in trajectories:
        if trajectory.law == law:
            continue
        if trajectory.law is None:
            raise RatioError(f"{_name(trajectory)} carries no law of its sampling: it was not drawn for training")
        apart = [
            f"{name} {theirs} where the learner has {ours}"
            for (name, theirs), ours in zip(vars(trajectory.law).items(), vars(law).values(), strict=True)
            if theirs != ours
        ]
        raise RatioError(
            f"{_name(trajectory)} was drawn with {', '.join(apart)}: give sampler and learner the same sampling, "
            "rl.noise and engine.dtype"
        )


def require_texts_law(trajectories: Sequence[Trajectory], law: SamplingLaw) -> None:
    """Check two facts about all trajectories. First, they have a sampling law. (Trajectories that were sampled for
    training always have one.) Second, their texts were sampled at the temperature of `law`, the sampling law of the
    learner. Raises RatioError if one of these facts is not true. The rest of the sampling law, which is the noise of
    images and the number type, is not compared."""
    for trajectory in trajectories:
        if trajectory.law is None:
            raise RatioError(f"{_name(trajectory)} carries no law of its sampling: it was not drawn for training")
        if trajectory.law.temperature != law.temperature:
            raise RatioError(
                f"{_name(trajectory)} was drawn at temperature {trajectory.law.temperature}, the learner has "
                f"{law.temperature}: set sampling.temperature to that of the rollouts"
            )


def check(
    engine,
    replays: Sequence[ReplayPack],
    trajectories: Sequence[Trajectory],
    law: SamplingLaw,
    clip_image: float,
    strict: bool = True,
) -> list[LogprobDifference]:
    """Compare the learner's log-probabilities with the sampler's log-probabilities, which are stored in the
    trajectories. All ranks are included. `replays` has this rank's packs (inputs of one forward pass), which contain
    texts and images of the trajectories. `law` has the settings of the sampling. The limit for a difference is 1e-4 for
    a text token and `clip_image` / 5 for a denoising step.

    Return one entry of statistics for each modality (text or image), turn and denoising step, sorted in this order. If
    `strict`, RatioError is raised if a difference exceeds its limit. The error describes the difference that is largest
    relative to its limit. This is a collective call: all ranks must make it.
    """

    def read(output, index: int) -> list[LogprobDifference]:
        replay = replays[index]
        return _differences(replay, evaluate(output, replay, trajectories, law), trajectories, clip_image)

    local = [d for found in engine.evaluate([r.pack for r in replays], read) for d in found]
    table = _merge([d for part in gather_objects(local) for d in part])
    worst = max(table, key=lambda d: d.largest / d.limit, default=None)
    if strict and worst is not None and worst.exceeds:
        raise RatioError(worst.complaint())
    return table


def _differences(
    replay: ReplayPack, scores: PackScores[StepScore], trajectories: Sequence[Trajectory], clip_image: float
) -> list[LogprobDifference]:
    found = []
    for ref, score in zip(replay.texts, scores.texts):
        segment = ref.of(trajectories)
        found.append(
            _compare(Modality.TEXT, segment.turn, None, score.logprobs, segment.logprobs, TEXT_TOLERANCE,
                     _name(trajectories[ref.trajectory]))
        )  # fmt: skip
    for ref, score in zip(replay.images, scores.images):
        segment = ref.of(trajectories)
        for place, step in enumerate(ref.steps):
            new, old = score.logprobs[place : place + 1], segment.logprobs[step : step + 1]
            found.append(
                _compare(Modality.IMAGE, segment.turn, step, new, old, clip_image / IMAGE_SHARE_OF_CLIP,
                         _name(trajectories[ref.trajectory]))
            )  # fmt: skip
    return found


def _compare(modality: str, turn: int, step: int | None, new, old, limit: float, where: str) -> LogprobDifference:
    gap = (new.cpu() - old).abs()
    worst = float("inf") if bool(gap.isnan().any()) else float(gap.max())
    return LogprobDifference(modality, turn, step, gap.numel(), float(gap.sum()), worst, where, limit)


def _name(trajectory: Trajectory) -> str:
    return f"prompt {trajectory.prompt.id!r}, sample {trajectory.sample}"


def _merge(parts: list[LogprobDifference]) -> list[LogprobDifference]:
    table: dict[tuple, LogprobDifference] = {}
    for part in parts:
        key = (part.modality, part.turn, -1 if part.step is None else part.step)
        entry = table.setdefault(key, LogprobDifference(part.modality, part.turn, part.step, limit=part.limit))
        entry.count += part.count
        entry.total += part.total
        if part.largest >= entry.largest:
            entry.largest, entry.where = part.largest, part.where
    return [table[key] for key in sorted(table)]

"""Checks invariant 1: before the first update, replayed and sampled log-probabilities come from the same policy.

Limits in fp32: text |difference| <= 1e-4 per token, image |difference| <= clip_range / 5 per step. Otherwise the run
stops and names the largest difference.
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
    """The learner does not replay the policy that sampled."""


@dataclass
class LogprobDifference:
    """|replayed - sampled| log-probability for one modality, turn and denoising step (None: all tokens of a text)."""

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
        """For the report's table."""
        return {
            "modality": self.modality, "turn": self.turn, "step": self.step, "count": self.count, "mean": self.mean,
            "max": self.largest, "limit": self.limit,
        }  # fmt: skip


def require_law(trajectories: Sequence[Trajectory], law: SamplingLaw) -> None:
    """Raise RatioError for a trajectory with another sampling law than the learner's, or without one."""
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
    """Raise RatioError for a trajectory whose texts were sampled at another temperature, or that was not sampled for
    training. The law of the images and the number type may differ."""
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
    """The table of differences over all ranks, sorted by modality, turn and step. A collective call.

    If `strict`, raises RatioError for the largest difference, as a multiple of its limit, when it exceeds the limit.
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

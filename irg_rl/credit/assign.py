"""Combine the scores of a group to one reward for each image, compute advantages from these rewards, and store the
advantages in the segments.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite

from irg_rl.credit import statements
from irg_rl.credit.nodes import Advantages, Place, place_of, sample_of, write
from irg_rl.credit.scheme import CreditScheme, Right, scheme_named
from irg_rl.credit.statistics import ROUNDING, moments, normalise
from irg_rl.errors import InputError
from irg_rl.sections import Section
from irg_rl.trajectory import Group, Modality, Trajectory, forks


@dataclass(frozen=True)
class Summary:
    """The result of `assign` for one group.

    Attributes:
        trained: Number of samples that have all their scores.
        dropped: Number of samples that are left out because a score failed or because they have no image.
        has_spread: True if the rewards gave any segment, or the statements any token, an advantage other than 0.
        empty: True if no segment has an advantage, so there is nothing to train on.
        reward_mean, reward_std: Mean and standard deviation of the combined reward of the final image, over the samples
            that `trained` counts.
    """

    trained: int
    dropped: int
    has_spread: bool
    empty: bool
    reward_mean: float
    reward_std: float


def combine(group: Group, weights: Mapping[str, float], how: str = "sum") -> list[list[float | None]]:
    """Return the combined reward of every image as a list of lists, `[trajectory][turn]`. The combined reward of an
    image is None if one of the scorers failed on it.

    If `how` is "sum", the combined reward is the weighted sum of the raw scores. If it is "zscore_sum" (GDPO), the
    scores of each scorer are centred and scaled before the weighted sum is taken. The mean and the standard deviation
    are taken over all images of the group. Trajectories in which a scorer failed are left out. If several trajectories
    share an image, it counts once. The images of all turns are scaled together, so differences between turns keep their
    meaning.
    """
    if how not in ("sum", "zscore_sum"):
        raise ValueError(f"combine how={how!r}: use 'sum' or 'zscore_sum'")
    if not weights:
        raise InputError(
            f"group {group.id}: no scorer of images is used for its prompt {group.prompt.id!r}: name at least "
            "one, or widen a `when`"
        )
    raw = [{name: list(_scores(t, name)) for name in weights} for t in group.trajectories]
    if how == "zscore_sum":
        _to_zscores(group, raw, list(weights))
    return [
        [_weighted_sum({name: scores[k] for name, scores in own.items()}, weights) for k in range(t.turns)]
        for t, own in zip(group.trajectories, raw)
    ]


def _to_zscores(group: Group, raw: list[dict[str, list[float | None]]], names: Sequence[str]) -> None:
    valid = [i for i, own in enumerate(raw) if all(value is not None for scores in own.values() for value in scores)]
    images = {i: [id(image) for image in group.trajectories[i].images] for i in valid}
    for name in names:
        pooled = {
            image: value for i in valid for image, value in zip(images[i], raw[i][name]) if value is not None
        }
        scaled = dict(zip(pooled, normalise(list(pooled.values()), floor=1e-6)))
        for i in valid:
            raw[i][name] = [scaled[image] for image in images[i]]


def _weighted_sum(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    known = {name: score for name, score in scores.items() if score is not None}
    return fsum(weights[name] * score for name, score in known.items()) if len(known) == len(scores) else None


def assign(
    group: Group,
    scheme: CreditScheme | str,
    weights: Mapping[str, float],
    *,
    how: str = "sum",
    options: Section | None = None,
    right: Right | None = None,
    segment_weights: Mapping[str, float] | None = None,
    statement_weights: Mapping[str, float] | None = None,
    held: Collection[Modality] = (),
) -> Summary:
    """Compute the `advantage` of every segment of the group and store it in the segment. An advantage of None means
    that the segment is not trained. A sample is not trained if any score of its images or segments failed.

    Args:
        weights: Weight of each scorer of images, by name.
        how: How the scores of an image are combined; see `combine`.
        segment_weights: Weight of each scorer of reflections and edits, by name. Some schemes use the scores of these
            scorers (`Sample.scores`).
        statement_weights: Weight of each scorer of statements, by name. They train single tokens of reflections, in
            addition to the advantages of the scheme (see irg_rl.credit.statements).
        held: Segments of these modalities are held near the reference model by a KL term. This term is about all of
            them, so those that the scheme gives no advantage get the advantage 0 and not None.
        options: The options of the scheme, an object of the class `scheme.options`. None means the default options.
        right: The rule that decides whether an image is right (completely correct). With None, an image is right if its
            combined reward is at least the sum of all positive weights.
    """
    chosen = scheme_named(scheme) if isinstance(scheme, str) else scheme
    options = chosen.options() if options is None else options
    if how == "zscore_sum" and chosen.asks_if_right:
        raise ValueError(f"credit {scheme} asks whether an image is right, which z-scores do not tell: use how='sum'")
    # Forks are found with the failed samples too. If all siblings of a branch failed, the branch has no baseline and
    # its advantage is 0.
    fork_segments = forks(t.segments for t in group.trajectories)
    if fork_segments and chosen.whole_trajectories:
        raise ValueError(f"credit {scheme} judges whole trajectories, and siblings of this group share segments")
    combined = combine(group, weights, how)
    _require_finite((value for q in combined for value in q if value is not None), "reward", group)
    own, of_statements = segment_weights or {}, statement_weights or {}
    scores = [_segment_scores(t, own) for t in group.trajectories]
    failed = [None in _segment_scores(t, of_statements).values() for t in group.trajectories]
    valid = {
        i: [value for value in q if value is not None]
        for i, q in enumerate(combined) if q and None not in q and None not in scores[i].values() and not failed[i]
    }  # fmt: skip
    right = Right.by(None, weights) if right is None else right
    samples = [
        sample_of(
            group.trajectories[i], q, fork_segments,
            _right(group.trajectories[i], q, right) if chosen.asks_if_right else (),
            {place: value for place, value in scores[i].items() if value is not None},
        )
        for i, q in valid.items()
    ]  # fmt: skip
    table: Advantages = chosen.advantages(samples, options) if len(samples) >= 2 else [{} for _ in samples]
    has_spread = any(abs(advantage) > ROUNDING for row in table for advantage in row.values())
    if chosen.penalise is not None:
        chosen.penalise(table, samples, options)
    _require_finite((advantage for row in table for advantage in row.values()), "advantage", group)
    write(group, dict(zip(valid, table)))
    trained = [group.trajectories[i] for i in valid] if len(valid) >= 2 else []
    statements.give_token_advantages(trained, of_statements)
    by_statements = _train_lone_texts(trained, getattr(options, "malformed_penalty", 0.0))
    empty = not any(table) and not by_statements
    if not empty:
        hold(trained, held)
    mean, std = moments([sample.q[-1] for sample in samples])
    return Summary(len(samples), len(combined) - len(samples), has_spread or by_statements, empty, mean, std)


def _train_lone_texts(trajectories: Iterable[Trajectory], penalty: float) -> bool:
    """Give texts that are trained by their statements alone the advantage 0, or -`penalty` if they were cut off. Return
    whether any statement trains a token."""
    found = False
    for trajectory in trajectories:
        for text in trajectory.texts:
            own = text.token_advantages
            if own is not None and bool((own.abs() > ROUNDING).any()):
                found = True
                if text.advantage is None:
                    text.advantage = 0.0 if text.finished else -penalty
    return found


def hold(trajectories: Iterable[Trajectory], held: Collection[Modality]) -> None:
    """Give segments of the modalities `held` that have no advantage the advantage 0, so that their KL term counts."""
    for trajectory in trajectories:
        for segment in trajectory.segments:
            if segment.modality in held and segment.advantage is None:
                segment.advantage = 0.0


def _require_finite(values: Iterable[float], what: str, group: Group) -> None:
    """Raise InputError if any of the values is NaN or infinite. Rewards are checked before the advantages are computed,
    because clipping an advantage would turn NaN into the largest allowed value. Advantages are checked afterwards.
    """
    for value in values:
        if not isfinite(value):
            raise InputError(f"group {group.id}: a {what} is {value}: look at the weights and scores of its scorers")


def _segment_scores(trajectory: Trajectory, weights: Mapping[str, float]) -> dict[Place, float | None]:
    """Return a dict from the place of a reflection or edit, (turn, modality), to the weighted sum of its scores. The
    sum is None if one of the scores failed. Reflections and edits without any of these scores are left out.
    """
    return {
        place_of(segment): _weighted_sum({name: segment.scores[name] for name in used}, weights)
        for segment in trajectory.segments if (used := [name for name in weights if name in segment.scores])
    }  # fmt: skip


def _right(trajectory: Trajectory, q: Sequence[float], right: Right) -> tuple[bool, ...]:
    """Return for each image whether it is right. An image is not right if its scorer failed."""
    values = q if right.scorer is None else _scores(trajectory, right.scorer)
    return tuple(value is not None and value >= right.at_least for value in values)


def _scores(sample: Trajectory, name: str) -> list[float | None]:
    if name not in sample.rewards:
        raise ValueError(f"sample {sample.sample} has no reward {name!r}; it has {sorted(sample.rewards)}")
    if len(sample.rewards[name]) != sample.turns:
        raise ValueError(
            f"sample {sample.sample} has {sample.turns} images but {len(sample.rewards[name])} values of {name!r}"
        )
    return sample.rewards[name]

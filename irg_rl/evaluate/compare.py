"""Compares a model after RL with its baselines: its SFT checkpoint, SFT continued for the same time as RL, the best of
n first images, or another RL run.

The results of a model for one seed are a table of outcomes (evaluate/outcomes.py). Every comparison is made for each
seed of RL, and also pooled over all seeds. Some baselines, such as the SFT checkpoint, do not depend on the seed of RL.
They have one table, and it is compared with every seed. Another RL run has one table per seed, and tables of the same
seed are compared.

A pooled difference has two intervals. The first holds for these seeds only. The second holds for a new seed
(`intervals.across_seeds`). Prompts that ask for the same thing in other words have one set of constraints, and each set
counts as one independent case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from irg_rl.evaluate import intervals, metrics
from irg_rl.evaluate.intervals import Measure, Terms
from irg_rl.evaluate.outcomes import Outcomes

VERIFIER = "verifier"


@dataclass(frozen=True)
class BalancedRow:
    """Compares the model after RL with one baseline by their balanced accuracy. This is the mean of the accuracies of
    all tasks (kinds of prompt) at the last turn. Every task has the same weight, however many prompts it has.

    `rl` and `other` are the balanced accuracies of the model after RL and of the baseline, and `gained` is rl - other.
    `across_seeds` is the same difference, but with a confidence interval for a new seed. It is None if there is one
    seed.
    """

    rl: Measure
    other: Measure
    gained: Measure
    across_seeds: Measure | None


@dataclass(frozen=True)
class BaselineRow:
    """Compares the model after RL with one baseline in accuracy, repair and damage, for one seed of RL. Repair is the
    share of wrong first images that are right at the last turn. Damage is the share of right first images that are
    wrong at the last turn. If `seed` is None, all seeds are pooled."""

    baseline: str
    seed: int | None
    rl: Measure  # final-turn accuracy of RL
    other: Measure  # final-turn accuracy of the baseline
    gained: Measure  # rl - other, paired by set of constraints; the interval holds for these seeds only
    across_seeds: Measure | None  # same difference, interval for a new seed; None: this row has one seed
    balanced: BalancedRow
    repair: "RepairRow | None"  # None: the baseline does not refine its images
    rl_damage: Measure
    rl_renders: float
    other_renders: float

    def of_these_seeds(self) -> "BaselineRow":
        """Return a copy of this row without the confidence intervals for a new seed: every field `across_seeds` is
        None."""
        repair = None if self.repair is None else replace(self.repair, across_seeds=None)
        balanced = replace(self.balanced, across_seeds=None)
        return replace(self, across_seeds=None, balanced=balanced, repair=repair)

    def to_dict(self) -> dict:
        figures = {
            "rl_accuracy": self.rl,
            "baseline_accuracy": self.other,
            "gained": self.gained,
            "gained_across_seeds": self.across_seeds,
            **{f"balanced_{name}": value for name, value in vars(self.balanced).items()},
            "repair_ratio": self.repair and self.repair.ratio,
            "rl_repair": self.repair and self.repair.rl,
            "rl_damage": self.rl_damage,
        }
        about = {"baseline": self.baseline, "seed": self.seed}
        about |= {"rl_renders": self.rl_renders, "baseline_renders": self.other_renders}
        return about | {name: _plain(figure) for name, figure in figures.items()}


@dataclass(frozen=True)
class RepairRow:
    """Compares two values of repair. `rl` is the repair of the model after RL. `other` is the repair of a baseline or a
    control, and `against` is the name of this baseline or control. Repair is the share of wrong first images that are
    right at the last turn. `gained` is rl - other, and `ratio` is rl / other. `across_seeds` is the same difference as
    `gained`, but with a confidence interval for a new seed."""

    against: str
    seed: int | None
    rl: Measure
    other: Measure
    gained: Measure
    across_seeds: Measure | None
    ratio: Measure

    def to_dict(self) -> dict:
        figures = {name: _plain(value) for name, value in vars(self).items() if isinstance(value, Measure | None)}
        return figures | {"against": self.against, "seed": self.seed}


@dataclass(frozen=True)
class Standing:
    """Accuracy, repair and damage of one model, for one seed or pooled over all seeds. Repair is the share of wrong
    first images that are right at the last turn. Damage is the share of right first images that are wrong at the last
    turn. `seed` is None for pooled measures and for a baseline that is the same for every seed."""

    model: str
    seed: int | None
    accuracy: list[Measure]  # one entry per turn; for best of n: per number of first images
    balanced: list[Measure]  # the same, as the mean over tasks
    repair: Measure | None  # None: the model does not refine its images
    damage: Measure | None
    renders: float

    def to_dict(self) -> dict:
        return {
            "model": self.model,
            "seed": self.seed,
            "accuracy": [measure.to_dict() for measure in self.accuracy],
            "balanced_accuracy": [measure.to_dict() for measure in self.balanced],
            "repair": _plain(self.repair),
            "damage": _plain(self.damage),
            "renders": self.renders,
        }


@dataclass(frozen=True)
class BaselineComparison:
    """The result of comparing a model after RL with its baselines. `rows` has the differences from each baseline (first
    each seed, then pooled). `standings` has the accuracy, repair and damage of every model. `repairs` compares the
    repair by RL with baselines and controls."""

    rows: list[BaselineRow]
    standings: list[Standing]
    repairs: list[RepairRow]

    def to_dict(self) -> dict:
        return {
            "kind": "comparison",
            "name": "rl_against_baselines",
            "rows": [row.to_dict() for row in self.rows],
            "standings": [standing.to_dict() for standing in self.standings],
            "repairs": [repair.to_dict() for repair in self.repairs],
        }


def compare(
    rl: Sequence[Outcomes],
    baselines: Mapping[str, Outcomes | Sequence[Outcomes]],
    controls: Mapping[str, Sequence[Outcomes]] | None = None,
) -> BaselineComparison:
    """Compare RL with each baseline, by the images at the last turn. `rl` has one table of outcomes per seed. A table
    says for every trajectory and turn whether the image is right.

    If a baseline is one table (not a list), it is the same for all seeds of RL. An example is the SFT checkpoint. If a
    baseline is a list, it is another RL run. If the list has one table per seed, tables of the same seed are compared.
    If the list has only one table, this table is compared with every seed of RL. Then there is no interval for a new
    seed, because the variation of the baseline between seeds is unknown.

    `controls` has the controls of RL (such as a plain new draw instead of a refinement), with one table per seed. They
    start from the same first images as RL. Raises ValueError if the tables of a baseline have other seeds or other
    prompts than RL.
    """
    rows, standings, repairs = [], _standings("RL", rl), []
    for name, given in baselines.items():
        own = [given] if isinstance(given, Outcomes) else list(given)
        tables = own * len(rl) if len(own) == 1 else _by_seed(name, own, rl)
        found = [_row(name, *pair) for pair in _each_and_all(rl, tables)]
        one_seed_of_an_arm = len(own) == 1 < len(rl) and not isinstance(given, Outcomes)
        rows += [row.of_these_seeds() for row in found] if one_seed_of_an_arm else found
        standings += [_standing(name, None, own)] if len(own) == 1 else _standings(name, tables)
    repairs += [row.repair for row in rows if row.repair is not None]
    for name, given in (controls or {}).items():
        repairs += [_repair(name, *pair) for pair in _each_and_all(rl, _by_seed(name, given, rl))]
    return BaselineComparison(rows, standings, repairs)


def best_of(samples: Sequence[Outcomes], by: str) -> Outcomes:
    """Return the outcomes of the baseline "best of n". This baseline draws n first images for each prompt, and keeps
    the image with the highest score of the scorer `by`. `samples` has n tables of outcomes. Table i has the i-th first
    image of every prompt.

    Column k of the result has the outcomes of the best of the first k + 1 images. RL has also drawn k + 1 images at
    turn k. So column k and turn k of RL can be compared at equal cost. `by = "verifier"` uses the graded score of the
    verifier itself. This is the strongest such baseline (an oracle). A failed score counts as lower than every number.
    If scores are equal, the earlier image is kept. Raises ValueError if the tables have different prompts, or if they
    have no scores of `by`.
    """
    first = samples[0]
    if any(other.prompt_ids != first.prompt_ids for other in samples):
        raise ValueError("best_of needs the same prompts in the same order in every sample")
    scores = np.stack([_ranked_by(sample, by) for sample in samples], axis=1)
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    chosen = np.stack([scores[:, : k + 1].argmax(1) for k in range(len(samples))], axis=1)

    def pick(tables: Sequence[np.ndarray]) -> np.ndarray:
        return np.take_along_axis(np.stack([table[:, 0] for table in tables], axis=1), chosen, 1)

    return Outcomes(
        arm=f"best of {len(samples)} by {by}",
        seed=first.seed,
        prompt_ids=first.prompt_ids,
        sets=first.sets,
        tasks=first.tasks,
        correct=pick([s.correct for s in samples]),
        score=pick([s.score for s in samples]),
        stopped=np.zeros(chosen.shape, bool),
        reflection_correct=np.full(chosen.shape, np.nan),
        preference=np.full(len(first), np.nan),
        consistent=np.full(len(first), np.nan),
        rewards={
            name: pick([s.rewards[name] for s in samples])
            for name in first.rewards if all(name in s.rewards for s in samples)
        },  # fmt: skip
        refines=False,
    )


def _ranked_by(sample: Outcomes, by: str) -> np.ndarray:
    if by == VERIFIER:
        return sample.score[:, 0]
    if by not in sample.rewards:
        known = ", ".join([VERIFIER, *sorted(sample.rewards)])
        raise ValueError(f"best_of by {by!r}: the samples were not scored by it; known: {known}")
    return sample.rewards[by][:, 0]


def _each_and_all(
    rl: Sequence[Outcomes], other: Sequence[Outcomes]
) -> list[tuple[int | None, Sequence[Outcomes], Sequence[Outcomes]]]:
    """Return one entry (seed, tables of RL, tables of the other model) per seed. The tables are tables of outcomes. If
    there are several seeds, a last entry has all tables, and its seed is None."""
    pairs: list[tuple[int | None, Sequence[Outcomes], Sequence[Outcomes]]]
    pairs = [(mine.seed, [mine], [theirs]) for mine, theirs in zip(rl, other, strict=True)]
    return pairs if len(rl) == 1 else [*pairs, (None, rl, other)]


def _by_seed(name: str, given: Sequence[Outcomes], rl: Sequence[Outcomes]) -> list[Outcomes]:
    """Return the tables of outcomes `given`, one per seed, in the order of the seeds in `rl`. Raises ValueError if
    `given` and `rl` have different seeds. `name` is used in the message."""
    found, asked = {table.seed: table for table in given}, [table.seed for table in rl]
    if len(given) != len(found) or set(found) != set(asked):
        seeds = [table.seed for table in given]
        raise ValueError(
            f"baseline {name!r} has tables of seeds {seeds}, RL has {asked}: give one table, or one a seed"
        )
    return [found[seed] for seed in asked]


def _row(name: str, seed: int | None, rl: Sequence[Outcomes], other: Sequence[Outcomes]) -> BaselineRow:
    mine, theirs = _final(metrics.accuracy, rl), _final(metrics.accuracy, other)
    refined = all(table.refines and table.turns > 1 for table in other)
    return BaselineRow(
        baseline=name,
        seed=seed,
        rl=_share(metrics.accuracy, rl),
        other=_share(metrics.accuracy, other),
        gained=intervals.difference(mine, theirs),
        across_seeds=intervals.across_seeds(mine, theirs) if len(rl) > 1 else None,
        balanced=_balanced(rl, other),
        repair=_repair(name, seed, rl, other) if refined else None,
        rl_damage=_share(metrics.damage, rl),
        rl_renders=float(np.mean([table.renders for table in rl])),
        other_renders=float(np.mean([table.renders for table in other])),
    )


def _balanced(rl: Sequence[Outcomes], other: Sequence[Outcomes]) -> BalancedRow:
    mine, theirs = _final(metrics.balanced_accuracy, rl), _final(metrics.balanced_accuracy, other)
    return BalancedRow(
        rl=intervals.mean(intervals.pooled(mine)),
        other=intervals.mean(intervals.pooled(theirs)),
        gained=intervals.difference(mine, theirs),
        across_seeds=intervals.across_seeds(mine, theirs) if len(rl) > 1 else None,
    )


def _repair(name: str, seed: int | None, rl: Sequence[Outcomes], other: Sequence[Outcomes]) -> RepairRow:
    mine, theirs = _final(metrics.repair, rl), _final(metrics.repair, other)
    return RepairRow(
        against=name,
        seed=seed,
        rl=_share(metrics.repair, rl),
        other=_share(metrics.repair, other),
        gained=intervals.difference(mine, theirs),
        across_seeds=intervals.across_seeds(mine, theirs) if len(rl) > 1 else None,
        ratio=intervals.ratio(mine, theirs),
    )


def _standings(model: str, tables: Sequence[Outcomes]) -> list[Standing]:
    own = [_standing(model, table.seed, [table]) for table in tables]
    return own if len(own) == 1 else [*own, _standing(model, None, tables)]


def _standing(model: str, seed: int | None, tables: Sequence[Outcomes]) -> Standing:
    def share(metric: metrics.Metric, turn: int) -> Measure:
        return intervals.proportion(intervals.pooled([metric(table, turn) for table in tables]))

    turns = min(table.turns for table in tables)
    refines = turns > 1 and all(table.refines for table in tables)
    return Standing(
        model=model,
        seed=seed,
        accuracy=[share(metrics.accuracy, turn) for turn in range(turns)],
        balanced=[
            intervals.mean(intervals.pooled([metrics.balanced_accuracy(table, turn) for table in tables]))
            for turn in range(turns)
        ],
        repair=share(metrics.repair, turns - 1) if refines else None,
        damage=share(metrics.damage, turns - 1) if refines else None,
        renders=float(np.mean([table.renders for table in tables])),
    )


def _final(metric: metrics.Metric, tables: Sequence[Outcomes]) -> list[Terms]:
    return [metric(table, table.turns - 1) for table in tables]


def _share(metric: metrics.Metric, tables: Sequence[Outcomes]) -> Measure:
    return intervals.proportion(intervals.pooled(_final(metric, tables)))


def _plain(measure: Measure | None) -> dict | None:
    return None if measure is None else measure.to_dict()

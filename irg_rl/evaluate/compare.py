"""RL against what it has to beat: its own SFT checkpoint, SFT continued as long, and best-of-n first images.

Each comparison is per seed and pooled. Baselines that do not depend on the RL seed (the SFT checkpoint) are given once
and stand beside every seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from irg_rl.evaluate import intervals, metrics
from irg_rl.evaluate.intervals import Measure, Terms
from irg_rl.evaluate.outcomes import Outcomes

VERIFIER = "verifier"


@dataclass(frozen=True)
class Row:
    """RL minus (or over) one baseline; `seed` None is pooled over the seeds."""

    baseline: str
    seed: int | None
    rl: Measure  # final-turn accuracy of RL
    other: Measure  # final-turn accuracy of the baseline
    gained: Measure  # rl - other, paired over prompts
    repair_ratio: Measure | None  # None: a baseline without refinements
    rl_repair: Measure
    rl_damage: Measure
    rl_renders: float
    other_renders: float

    def to_dict(self) -> dict:
        figures = {
            "rl_accuracy": self.rl,
            "baseline_accuracy": self.other,
            "gained": self.gained,
            "repair_ratio": self.repair_ratio,
            "rl_repair": self.rl_repair,
            "rl_damage": self.rl_damage,
        }
        about = {"baseline": self.baseline, "seed": self.seed}
        about |= {"rl_renders": self.rl_renders, "baseline_renders": self.other_renders}
        return about | {name: None if figure is None else figure.to_dict() for name, figure in figures.items()}


@dataclass(frozen=True)
class Comparison:
    """All rows, baseline by baseline, each seed and then pooled."""

    rows: list[Row]

    def to_dict(self) -> dict:
        return {"kind": "comparison", "name": "rl_against_baselines", "rows": [row.to_dict() for row in self.rows]}

    def to_markdown(self) -> str:
        """A table for the README."""
        lines = [
            "| RL against | seed | RL final accuracy | baseline | difference [95 %] | repair ratio [95 %] "
            "| RL repair (n) | RL damage (n) [95 %] | renders RL / baseline |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            ratio = "-" if row.repair_ratio is None else _with_interval(row.repair_ratio, ".2f")
            cells = [
                row.baseline,
                "pooled" if row.seed is None else str(row.seed),
                f"{row.rl.value:.3f}",
                f"{row.other.value:.3f}",
                _with_interval(row.gained, "+.3f"),
                ratio,
                f"{row.rl_repair.value:.3f} ({row.rl_repair.n})",
                f"{row.rl_damage.value:.3f} ({row.rl_damage.n}) [{row.rl_damage.low:.3f}, {row.rl_damage.high:.3f}]",
                f"{row.rl_renders:.2f} / {row.other_renders:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def compare(
    rl: Sequence[Outcomes],
    baselines: Mapping[str, Outcomes | Sequence[Outcomes]],
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Final-turn accuracy of RL (one table per seed) against each baseline (one table, or one per RL seed).

    Raises ValueError when a baseline has another number of seeds than RL, or other prompts.
    """
    rows = []
    for name, given in baselines.items():
        tables = [given] * len(rl) if isinstance(given, Outcomes) else list(given)
        if len(tables) != len(rl):
            raise ValueError(
                f"baseline {name!r} has {len(tables)} tables for {len(rl)} seeds of RL: give one, or one each"
            )
        for mine, other in zip(rl, tables, strict=True):
            rows.append(_row(name, mine.seed, [mine], [other], resamples, seed))
        if len(rl) > 1:
            rows.append(_row(name, None, rl, tables, resamples, seed))
    return Comparison(rows)


def best_of(samples: Sequence[Outcomes], by: str) -> Outcomes:
    """Draw n first images and keep the one that scorer `by` ranks highest: the baseline at n renders.

    Column k of the result is the best of the first k + 1 samples, so it reads like turns of the same cost.
    `by = "verifier"` picks by the graded score the verifier itself gives, the strongest such baseline (an oracle). A
    failed score loses to any number; ties keep the earlier sample. Raises ValueError for samples of different prompts.
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
        tasks=first.tasks,
        correct=pick([s.correct for s in samples]),
        score=pick([s.score for s in samples]),
        stopped=np.zeros(chosen.shape, bool),
        reflection_correct=np.full(chosen.shape, np.nan),
        preference=np.full(len(first), np.nan),
        consistent=np.full(len(first), np.nan),
        rewards={name: pick([s.rewards[name] for s in samples]) for name in first.rewards},
        refines=False,
    )


def _ranked_by(sample: Outcomes, by: str) -> np.ndarray:
    if by == VERIFIER:
        return sample.score[:, 0]
    if by not in sample.rewards:
        known = ", ".join([VERIFIER, *sorted(sample.rewards)])
        raise ValueError(f"best_of by {by!r}: the samples were not scored by it; known: {known}")
    return sample.rewards[by][:, 0]


def _row(
    name: str, row_seed: int | None, rl: Sequence[Outcomes], other: Sequence[Outcomes], resamples: int, seed: int
) -> Row:
    def final(metric: metrics.Metric, tables: Sequence[Outcomes]) -> list[Terms]:
        return [metric(table, table.turns - 1) for table in tables]

    def share(metric: metrics.Metric, tables: Sequence[Outcomes]) -> Measure:
        return intervals.proportion(intervals.pooled(final(metric, tables)))

    refined = all(table.refines and table.turns > 1 for table in other)
    repairs = final(metrics.repair, rl), final(metrics.repair, other)
    gained = final(metrics.accuracy, rl), final(metrics.accuracy, other)
    return Row(
        baseline=name,
        seed=row_seed,
        rl=share(metrics.accuracy, rl),
        other=share(metrics.accuracy, other),
        gained=intervals.difference(*gained, resamples=resamples, seed=seed),
        repair_ratio=intervals.ratio(*repairs, resamples=resamples, seed=seed) if refined else None,
        rl_repair=share(metrics.repair, rl),
        rl_damage=share(metrics.damage, rl),
        rl_renders=float(np.mean([table.renders for table in rl])),
        other_renders=float(np.mean([table.renders for table in other])),
    )


def _with_interval(measure: Measure, spec: str) -> str:
    return f"{measure.value:{spec}} [{measure.low:{spec}}, {measure.high:{spec}}]"

"""Compares scorers with each other, with the task's verdict and with people's preferences, and measures their noise,
what they see, and their speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from irg_rl.errors import InputError
from irg_rl.evaluate.intervals import Measure, Terms, mean
from irg_rl.reward_bench import statistics
from irg_rl.reward_bench.asking import ScorerAnswers, numbers
from irg_rl.reward_bench.changes import INVISIBLE
from irg_rl.reward_bench.material import BenchMaterial, graded_of
from irg_rl.reward_bench.preferences import PreferencePair
from irg_rl.reward_bench.scoring import ScorerCase, images_per_second, reasons
from irg_rl.task import Verdict

VERDICT = "verdict"
"""Name of the task's verdict in tables and figures, where it stands beside the scorers."""


@dataclass(frozen=True)
class PositionBias:
    """How much a scorer that compares two images likes the first position. `liking` is the mean probability that it
    gives to an image when it stands first, minus the mean when it stands second, divided by 2; 0 is no bias.
    `consistent` is the share of pairs for which it prefers the same image in both orders."""

    liking: Measure
    consistent: Measure
    right: Measure
    """Share of pairs whose better image it prefers, by the mean over both orders."""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_dict() for name in ("liking", "consistent", "right")}


@dataclass(frozen=True)
class ChangeSeen:
    """Whether a scorer sees a change. `noticed` is the share of images whose changed copy gets a lower score (equal
    scores count half). `drop` is the mean loss of score, in units of the scorer's spread inside groups."""

    noticed: Measure
    drop: float


@dataclass(frozen=True)
class ScorerReport:
    """Everything that was measured of one scorer. `order` and `preferences` are shares of pairs that it puts in the
    right order: of siblings with different verdicts, and of pairs of people's preferences. `one_model` has only those
    pairs whose two images come from one model. Where nothing could be measured, `n` of a measure is 0."""

    case: ScorerCase
    scored: int
    failed: int
    reasons: dict[str, int]
    mean: float
    sd: float
    spread: float  # standard deviation inside groups
    noise_again: float  # standard deviation of one score between equal calls
    noise_invisible: float  # the same, between an image and its invisibly changed copy
    flat: Measure  # share of groups in which the scorer tells no images apart
    order: Measure
    correlation: float  # with the verdict, inside groups
    with_verdict: Measure  # rank correlation with the verdict, over all images
    preferences: Measure
    one_model: Measure
    changes: dict[str, ChangeSeen]
    position: PositionBias | None
    per_second: float
    order_terms: Terms = field(repr=False)
    preference_terms: Terms = field(repr=False)

    @property
    def noise(self) -> float:
        """The larger of the two noises that were measured. nan if none was."""
        known = [value for value in (self.noise_again, self.noise_invisible) if np.isfinite(value)]
        return max(known, default=float("nan"))

    @property
    def reliability(self) -> float:
        """Share of the variance inside groups that is not noise: 1 - noise^2 / spread^2, at least 0. nan if the scorer
        has no spread inside groups."""
        if not self.spread > 0:
            return float("nan")
        return max(0.0, 1 - (self.noise if np.isfinite(self.noise) else 0.0) ** 2 / self.spread**2)

    def to_dict(self) -> dict[str, Any]:
        plain = ("scored", "failed", "reasons", "mean", "sd", "spread", "noise_again", "noise_invisible", "noise",
                 "reliability", "correlation", "per_second")  # fmt: skip
        measures = ("flat", "order", "with_verdict", "preferences", "one_model")
        return {
            "kind": self.case.kind, "weight": self.case.weight, "held_out": self.case.held_out,
            **{name: _plain(getattr(self, name)) for name in plain},
            **{name: getattr(self, name).to_dict() for name in measures},
            "changes": {name: {"noticed": seen.noticed.to_dict(), "drop": _plain(seen.drop)}
                        for name, seen in self.changes.items()},
            "position": None if self.position is None else self.position.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class ScorerComparison:
    """The reports of all scorers, and the rank correlations between them: (scorer, scorer) -> measure, over all images
    and inside groups. `cells` is the number of sets of siblings, `right` the number of images with the verdict
    "right"."""

    reports: list[ScorerReport]
    overall: dict[tuple[str, str], Measure]
    within: dict[tuple[str, str], Measure]
    images: int
    undecodable: int
    prompts: int
    cells: int
    judged: int
    right: int
    pairs: int
    ties: int

    @property
    def basis(self) -> str:
        """What scorers are held against: `verdict` if siblings have different verdicts, else `preferences` if there are
        any, else an empty text."""
        if any(report.order.n for report in self.reports):
            return "verdict"
        return "preferences" if any(report.preferences.n for report in self.reports) else ""

    def to_dict(self) -> dict[str, Any]:
        counts = ("images", "undecodable", "prompts", "cells", "judged", "right", "pairs", "ties", "basis")
        return {
            "kind": "reward comparison", **{name: getattr(self, name) for name in counts},
            "scorers": {report.case.name: report.to_dict() for report in self.reports},
            "spearman": {"overall": _matrix(self.overall), "within": _matrix(self.within)},
        }  # fmt: skip


def compare(
    answers: Sequence[ScorerAnswers], material: BenchMaterial, verdicts: Sequence[Verdict | None], seed: int = 0
) -> ScorerComparison:
    """Compute everything from the answers of all scorers. Nothing is asked here."""
    if not answers:
        raise InputError("no scorer of images is left to compare")
    images = [item.image for item in material.items]
    cells, prompts = [image.cell for image in images], [image.prompt.text for image in images]
    graded = graded_of(verdicts)
    reports = [_report(own, material, graded, cells, prompts, seed) for own in answers]
    columns = {own.case.name: numbers(own.answers) for own in answers}
    if np.isfinite(graded).any():
        columns[VERDICT] = graded
    names = list(columns)
    both = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return ScorerComparison(
        reports,
        {(a, b): statistics.spearman_over_all(columns[a], columns[b], prompts, seed) for a, b in both},
        {(a, b): statistics.spearman_within(columns[a], columns[b], cells, prompts) for a, b in both},
        images=len(images), undecodable=sum(bool(item.problem) for item in material.items),
        prompts=len(set(prompts)), cells=sum(len(p) > 1 for p in statistics.members_of(cells)),
        judged=int(np.isfinite(graded).sum()), right=sum(v is not None and v.correct for v in verdicts),
        pairs=len(material.pairs), ties=sum(pair.preferred == 0.5 for pair in material.pairs),
    )  # fmt: skip


def _report(
    own: ScorerAnswers,
    material: BenchMaterial,
    graded: Float[np.ndarray, "N"],
    cells: Sequence[str],
    prompts: Sequence[str],
    seed: int,
) -> ScorerReport:
    scores = numbers(own.answers)
    known = scores[np.isfinite(scores)]
    spread = statistics.spread_within(scores, cells)
    again = statistics.noise_of(np.stack([numbers(answers) for answers in own.rounds]))
    originals = scores[material.chosen]
    invisible = statistics.noise_of(np.stack([originals, numbers(own.changes[INVISIBLE])]))
    noise = max([value for value in (again, invisible) if np.isfinite(value)], default=float("nan"))
    siblings = statistics.pairs_within(cells)
    a, b = siblings[:, 0], siblings[:, 1]
    order = statistics.order_terms(scores[a] - scores[b], graded[a] - graded[b], [prompts[int(i)] for i in a])
    preference = _preference_terms(own, material.pairs)
    one_model = [pair.of_one_model for pair in material.pairs]
    every = own.every
    return ScorerReport(
        own.case, scored=sum(answer.score is not None for answer in every),
        failed=sum(answer.score is None for answer in every), reasons=reasons(every),
        mean=float(known.mean()) if len(known) else float("nan"), sd=float(known.std()) if len(known) else float("nan"),
        spread=spread, noise_again=again, noise_invisible=invisible,
        flat=statistics.flat_cells(scores, cells, prompts, noise), order=statistics.share(order),
        correlation=statistics.correlation_within(scores, graded, cells),
        with_verdict=statistics.spearman_over_all(scores, graded, prompts, seed),
        preferences=statistics.share(preference), one_model=statistics.share(_only(preference, one_model)),
        changes=_changes(own, originals, material, spread), position=_position(own, material, graded),
        per_second=images_per_second(every), order_terms=order, preference_terms=preference,
    )  # fmt: skip


def _preference_terms(own: ScorerAnswers, pairs: Sequence[PreferencePair]) -> Terms:
    truth = np.array([pair.preferred - 0.5 for pair in pairs], dtype=float)
    prompts = [pair.first.prompt.text for pair in pairs]
    return statistics.order_terms(numbers(own.firsts) - numbers(own.seconds), truth, prompts)


def _only(terms: Terms, chosen: Sequence[bool]) -> Terms:
    return Terms(terms.top * np.array(chosen, dtype=float), terms.bottom * np.array(chosen, dtype=float), terms.sets)


def _changes(
    own: ScorerAnswers, originals: Float[np.ndarray, "N"], material: BenchMaterial, spread: float
) -> dict[str, ChangeSeen]:
    prompts = [material.items[place].image.prompt.text for place in material.chosen]
    seen = {}
    for name, answers in own.changes.items():
        lost = originals - numbers(answers)
        noticed = statistics.share(statistics.order_terms(lost, np.ones(len(lost)), prompts))
        known = lost[np.isfinite(lost)]
        seen[name] = ChangeSeen(noticed, float(known.mean() / spread) if len(known) and spread > 0 else float("nan"))
    return seen


def _position(own: ScorerAnswers, material: BenchMaterial, graded: Float[np.ndarray, "N"]) -> PositionBias | None:
    known = [(p, pair) for p, pair in zip(own.preferred, material.shown) if p is not None]
    if not known:
        return None
    prompts = [first.image.prompt.text for _, (first, _) in known]
    ones = np.ones(len(known))
    liking = np.array([(p.in_order - p.swapped) / 2 for p, _ in known])
    consistent = np.array([float(p.first != 0.5) for p, _ in known])
    better = _better_side(material, graded)
    truth = np.array([better[id(first), id(second)] for _, (first, second) in known])
    gaps = np.array([p.mean - 0.5 for p, _ in known])
    return PositionBias(
        mean(Terms(liking, ones, prompts)), statistics.share(Terms(consistent, ones, prompts)),
        statistics.share(statistics.order_terms(gaps, truth, prompts)),
    )  # fmt: skip


def _better_side(material: BenchMaterial, graded: Float[np.ndarray, "N"]) -> dict[tuple[int, int], float]:
    """Return, for each pair that is shown, a number above 0 if its first image is better: by people's preference if
    there are any, else by the verdict."""
    place = {id(item): number for number, item in enumerate(material.items)}
    if material.pairs:
        every = zip(material.firsts, material.seconds, material.pairs)
        return {(id(first), id(second)): pair.preferred - 0.5 for first, second, pair in every}
    return {
        (id(first), id(second)): float(graded[place[id(first)]] - graded[place[id(second)]])
        for first, second in material.shown
    }


def _matrix(found: dict[tuple[str, str], Measure]) -> list[dict[str, Any]]:
    return [{"a": a, "b": b, **measure.to_dict()} for (a, b), measure in found.items()]


def _plain(value: Any) -> Any:
    """Return the value for JSON: nan and infinity become null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value

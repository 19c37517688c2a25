"""Turns a comparison of scorers into plain advice."""

import numpy as np

from irg_rl.evaluate.intervals import Measure, Terms, difference
from irg_rl.reward_bench.changes import INVISIBLE
from irg_rl.reward_bench.comparison import VERDICT, ScorerComparison, ScorerReport

ITSELF = 0.999
"""From this correlation inside groups on, a scorer is the verdict itself."""
ALIKE = 0.9
"""From this rank correlation inside groups on, two scorers say the same."""
FAILING = 0.05  # share of failed answers that is worth a warning
UNRELIABLE = 0.5  # reliability below which most of the spread is noise
FLAT = 0.5  # share of groups without differences that is worth a warning
CHANCE = 0.5


def recommend(found: ScorerComparison) -> list[str]:
    """Return advice as sentences, the most important first."""
    working = [report for report in found.reports if report.scored]
    lines = [_basis(found), *_ranking(found, working)]
    lines += [line for report in found.reports for line in _warnings(report, found)]
    return [*lines, *_alike(found), *_held_out(found, working)]


def agreement(report: ScorerReport, basis: str) -> tuple[Measure, Terms]:
    """Return the share of pairs that the scorer puts in the right order, and its terms. `basis` says by what a pair is
    right: `verdict` or `preferences`."""
    if basis == "verdict":
        return report.order, report.order_terms
    return report.preferences, report.preference_terms


def shown(measure: Measure) -> str:
    """Return a measure as text: its value with its interval."""
    if not np.isfinite(measure.value):
        return "unknown"
    ends = f" [{measure.low:.2f}, {measure.high:.2f}]" if np.isfinite(measure.low) else ""
    return f"{measure.value:.2f}{ends}"


def _basis(found: ScorerComparison) -> str:
    if found.basis == "verdict":
        pairs = max(report.order.n for report in found.reports)
        return (
            f"Scorers are compared with the task's verdict, on {pairs} pairs of siblings: images of one prompt, from "
            "one group and turn. RL compares no others."
        )
    if found.basis == "preferences":
        return (
            f"Scorers are compared with people's preferences, on {found.pairs - found.ties} pairs. The task has no "
            "verdict that tells siblings apart, so nothing is known about agreement inside groups of one model."
        )
    return (
        "There is neither a verdict that tells siblings apart nor a set of preferences (--pairs). Noise, changes and "
        "agreement between scorers are measured, but not which scorer is right."
    )


def _ranking(found: ScorerComparison, working: list[ScorerReport]) -> list[str]:
    if not found.basis:
        return []
    lines = [f"{r.case.name} is the verdict itself." for r in working if _is_verdict(r, found)]
    rest = [r for r in working if not _is_verdict(r, found) and agreement(r, found.basis)[0].n]
    rest.sort(key=lambda report: -agreement(report, found.basis)[0].value)
    able = [report for report in rest if _beats_chance(report, found.basis)]
    if able:
        best, terms = able[0], agreement(able[0], found.basis)[1]
        lines.append(f"Trust {best.case.name} most: it puts {shown(agreement(best, found.basis)[0])} of the pairs in "
                     "the right order.")  # fmt: skip
        for report in able[1:]:
            gap = difference(terms, agreement(report, found.basis)[1])
            told = "is worse than" if gap.low > 0 else "cannot be told apart from"
            lines.append(f"{report.case.name} ({shown(agreement(report, found.basis)[0])}) {told} {best.case.name}.")
    for report in (r for r in rest if r not in able):
        lines.append(
            f"Do not reward {report.case.name}: {shown(agreement(report, found.basis)[0])} of the pairs in the right "
            "order cannot be told apart from chance, or is worse."
        )
    return lines


def _is_verdict(report: ScorerReport, found: ScorerComparison) -> bool:
    return found.basis == VERDICT and report.correlation >= ITSELF


def _beats_chance(report: ScorerReport, basis: str) -> bool:
    measure = agreement(report, basis)[0]
    return measure.low > CHANCE if np.isfinite(measure.low) else measure.value > CHANCE


def _warnings(report: ScorerReport, found: ScorerComparison) -> list[str]:
    name, lines = report.case.name, []
    if not report.scored:
        return [f"{name} gave no score: {next(iter(report.reasons), 'it was not asked')}."]
    asked = report.scored + report.failed
    broken = found.undecodable
    if (failed := report.failed - broken) > FAILING * asked:
        lines.append(f"{name} failed on {failed} of {asked} images: {next(iter(report.reasons))}.")
    if report.reliability < UNRELIABLE:
        lines.append(
            f"{name}: most of its spread inside groups is noise ({report.noise:.3g} against a spread of "
            f"{report.spread:.3g}). Average several calls, or give it a small weight."
        )
    if report.flat.value > FLAT:
        lines.append(f"{name} tells no siblings apart in {report.flat.value:.0%} of the groups: such groups teach "
                     "nothing.")  # fmt: skip
    blind = [c for c, seen in report.changes.items() if c != INVISIBLE and _is_blind(seen.noticed)]
    if blind:
        lines.append(f"{name} does not notice: {', '.join(blind)}. A model can be trained into this without losing "
                     "reward.")  # fmt: skip
    if report.position is not None and abs(report.position.liking.value) > 0.05:
        lines.append(
            f"{name} likes the {'first' if report.position.liking.value > 0 else 'second'} position: it adds "
            f"{abs(report.position.liking.value):.2f} to the probability. Ask for both orders, as `prefer` does."
        )
    return lines


def _is_blind(noticed: Measure) -> bool:
    """Return whether the share of damaged copies with a lower score cannot be told apart from chance."""
    return noticed.n > 1 and not noticed.low > CHANCE


def _alike(found: ScorerComparison) -> list[str]:
    return [
        f"{a} and {b} say nearly the same (rank correlation {measure.value:.2f} inside groups): one of them is enough."
        for (a, b), measure in found.within.items()
        if VERDICT not in (a, b) and measure.value >= ALIKE
    ]


def _held_out(found: ScorerComparison, working: list[ScorerReport]) -> list[str]:
    """Return advice which scorer to hold out, if two scorers besides the verdict itself beat chance."""
    if not found.basis:
        return []
    able = [r for r in working if not _is_verdict(r, found) and _beats_chance(r, found.basis)]
    if len(able) < 2 or any(report.case.held_out for report in able):
        return []
    able.sort(key=lambda report: -agreement(report, found.basis)[0].value)
    return [f"Hold one out, for example {able[1].case.name} (held_out: true): if it falls while the rewards rise, the "
            "reward is being exploited."]  # fmt: skip

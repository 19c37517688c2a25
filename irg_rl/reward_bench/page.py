"""Writes a comparison of scorers as one HTML page that needs no other files, and its figures as PNG and SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from irg_rl.evaluate.intervals import Measure
from irg_rl.reward_bench.comparison import ScorerComparison, ScorerReport
from irg_rl.reward_bench.recommend import shown
from irg_rl.studies.plates import Plate, dots_plate, heat_plate

PAGE = "index.html"
FIGURES = "figures"


@dataclass(frozen=True)
class PageTable:
    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_bench_page(folder: Path, found: ScorerComparison, advice: Sequence[str], facts: Mapping[str, str]) -> Path:
    """Write the page and its figures into `folder`, and return the path of the page. All text is escaped, and the
    content policy of the page allows only what is embedded in it."""
    loader = ChoiceLoader([PackageLoader("irg_rl.reward_bench", "."), PackageLoader("irg_rl.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    stamp = f"{found.images} images, {found.prompts} prompts, {found.cells} groups; {facts.get('commit', '')}"
    plates = [plate for plate in (_agreement(found, stamp), _matrix(found, stamp), _changes(found, stamp)) if plate]
    page = environment.get_template("bench.html.jinja").render(
        advice=advice, facts=facts, plates=plates, tables=[_overview(found), _noise(found), *_failed(found)]
    )
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for plate in plates:
        (folder / FIGURES / f"{plate.name}.png").write_bytes(plate.png)
        (folder / FIGURES / f"{plate.name}.svg").write_bytes(plate.svg)
    aside = folder / f"{PAGE}.tmp"
    aside.write_text(page, encoding="utf-8")
    return aside.replace(folder / PAGE)


def _agreement(found: ScorerComparison, stamp: str) -> Plate | None:
    measured = {
        "with the verdict, siblings": {r.case.name: r.order for r in found.reports},
        "with preferences": {r.case.name: r.preferences for r in found.reports},
        "with preferences, one model": {r.case.name: r.one_model for r in found.reports},
    }
    panels = {title: own for title, own in measured.items() if any(measure.n for measure in own.values())}
    if not panels:
        return None
    return dots_plate(
        "agreement", "Which scorer puts pairs of images in the right order?",
        "Share of pairs in the right order; equal scores count half, so .5 is chance. Siblings are images that one "
        "model drew for one prompt in the same turn: the pairs that RL compares. Intervals are clustered by prompt.",
        stamp, panels, rows=[report.case.name for report in found.reports], x_label="share of pairs", chance=True,
    )  # fmt: skip


def _matrix(found: ScorerComparison, stamp: str) -> Plate | None:
    names = list(dict.fromkeys(name for pair in found.overall for name in pair))
    if len(names) < 2:
        return None
    panels = {}
    for title, measures in (("inside groups", found.within), ("over all images", found.overall)):
        both = {pair: m for pair, m in measures.items() if np.isfinite(m.value)}
        panels[title] = {(a, b): m for pair, m in both.items() for a, b in (pair, pair[::-1])}
    panels = {title: measures for title, measures in panels.items() if measures}
    if not panels:
        return None
    return heat_plate(
        "spearman", "How far do scorers agree with each other?",
        "Spearman's rank correlation. Inside groups: mean over the groups in which both scorers tell images apart (n "
        "counts these groups). Over all images: easy and hard prompts are mixed, so it is higher and says less.",
        stamp, panels, x=names, y=names[::-1], x_label="", y_label="",
    )  # fmt: skip


def _changes(found: ScorerComparison, stamp: str) -> Plate | None:
    panels = {
        report.case.name: {name: seen.noticed for name, seen in report.changes.items()}
        for report in found.reports if any(seen.noticed.n for seen in report.changes.values())
    }  # fmt: skip
    if not panels:
        return None
    return dots_plate(
        "changes", "Which changes does each scorer notice?",
        "Share of images whose changed copy gets a lower score. A good scorer is near 1 for a damage, and near .5 for "
        "the invisible change. `other prompt` keeps the image and asks about the prompt of another image.",
        stamp, panels, rows=list(found.reports[0].changes), x_label="share of images", chance=True,
    )  # fmt: skip


def _overview(found: ScorerComparison) -> PageTable:
    rows = [
        [r.case.name, r.case.kind, "held out" if r.case.held_out else f"{r.case.weight:g}", _counted(r.order),
         _number(r.correlation), _counted(r.with_verdict), _counted(r.preferences), _counted(r.one_model),
         _number(r.per_second)]
        for r in found.reports
    ]  # fmt: skip
    return PageTable(
        "Scorers", "Pairs: share in the right order. Correlation: Pearson's, inside groups. Rank correlation: "
        "Spearman's, over all images.",
        ["scorer", "kind", "weight", "verdict, sibling pairs", "correlation with verdict", "rank correlation with "
         "verdict", "preferences", "of one model", "images per second"], rows,
    )  # fmt: skip


def _noise(found: ScorerComparison) -> PageTable:
    rows = [
        [r.case.name, _number(r.mean), _number(r.sd), _number(r.spread), _number(r.noise_again),
         _number(r.noise_invisible), _number(r.reliability), _counted(r.flat), *_position(r)]
        for r in found.reports
    ]  # fmt: skip
    return PageTable(
        "Spread and noise", "Standard deviations of one score: over all images, inside groups, between equal calls, "
        "and between an image and a copy with an invisible change. Reliability: share of the variance inside groups "
        "that is not noise. Position: what standing first adds to the probability of being preferred.",
        ["scorer", "mean", "sd", "inside groups", "noise, equal calls", "noise, invisible change", "reliability",
         "groups without differences", "position", "same choice in both orders"], rows,
    )  # fmt: skip


def _position(report: ScorerReport) -> list[str]:
    if report.position is None:
        return ["", ""]
    return [shown(report.position.liking), shown(report.position.consistent)]


def _failed(found: ScorerComparison) -> list[PageTable]:
    rows = [[r.case.name, str(count), reason] for r in found.reports for reason, count in r.reasons.items()]
    return [PageTable("Failures", "", ["scorer", "answers", "reason"], rows)] if rows else []


def _counted(measure: Measure) -> str:
    return f"{shown(measure)} (n={measure.n})" if measure.n and np.isfinite(measure.value) else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else ""

"""Turns the metrics of RL into lines that say whether RL is healthy: a value, a threshold, and words.

A line without values says which number is missing in metrics.jsonl. Nothing is guessed. Some numbers are computed from
stored groups, because metrics.jsonl does not have them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from irg_rl.view.charts import shown
from irg_rl.view.curves import Points
from irg_rl.view.groups import StoredGroup, advantage_spread
from irg_rl.view.health_checks import (
    BAD,
    CHECKS,
    GOOD,
    MISSING,
    PLAIN,
    RECENT,
    WARN,
    HealthCheck,
    Judge,
    above,
    percent,
)

ORDER = (BAD, WARN, GOOD, PLAIN, MISSING)
NOT_STORED = "Not in metrics.jsonl. It is computed from stored groups, and there are none yet (rl.look_every)."


@dataclass(frozen=True)
class HealthLine:
    title: str
    status: str
    value: str
    limit: str
    words: str
    values: list[float] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)  # name of a number -> its newest value


def health(series: Mapping[str, Points], stage: str = "rl") -> list[HealthLine]:
    """Return one line per check. `series` has the points of every logged number, by `stage/name`."""
    return [_line(check, series, stage) for check in CHECKS]


def health_of_groups(looks: Sequence[Sequence[StoredGroup]], place: str) -> list[HealthLine]:
    """Return lines that metrics.jsonl does not have, computed from stored groups. `looks` has the groups of each update
    of which some were stored, in the order of the updates. `place` says which update is the newest, in words."""
    rewards = [[group.spread for group in groups if group.spread is not None] for groups in looks]
    spreads = [fmean(found) for found in rewards if found]
    newest = looks[-1] if looks else []
    told = f"From the {len(newest)} stored groups of {place}." if newest else NOT_STORED
    kinds = advantage_spread(newest)
    texts, cut = sum(group.texts for group in newest), sum(group.unfinished for group in newest)
    return [
        _of_groups(
            "Reward spread within groups", spreads, shown, "above 0", told, above_zero,
            "Standard deviation of the rewards of the last images within a group, mean over groups.",
        ),
        _of_groups(
            "Advantage spread per kind of segment", list(kinds.values()), shown, "above 0", told,
            all_above_zero,
            "Standard deviation of the advantages. A kind of segment without a spread is not trained.",
            [(f"{modality} of turn {turn + 1}", shown(value)) for (modality, turn), value in kinds.items()],
        ),
        _of_groups(
            "Texts cut at the token limit", [cut / texts] if texts else [], percent, "at most 5 %", told,
            above(0.05, 0.2), "Share of texts that never ended by themselves.",
        ),
        HealthLine("Malformed texts", MISSING, "\N{EN DASH}", "", "Not logged by this version."),
    ]  # fmt: skip


def above_zero(values: list[float]) -> str:
    return GOOD if values[-1] > 0 else BAD


def all_above_zero(values: list[float]) -> str:
    return GOOD if min(values) > 0 else WARN


def _of_groups(
    title: str, values: list[float], show: Callable[[float], str], limit: str, told: str, judge: Judge, words: str,
    parts: list[tuple[str, str]] | None = None,
) -> HealthLine:
    """Return a line about stored groups. Without values, it says why there are none."""
    if not values:
        return HealthLine(title, MISSING, "\N{EN DASH}", limit, told)
    value = "" if parts else show(values[-1])
    return HealthLine(title, judge(values), value, limit, f"{words} {told}", values if not parts else [], parts or [])


def in_order(lines: Sequence[HealthLine]) -> list[HealthLine]:
    """Sort lines: those that need a look come first, and those without values last."""
    return sorted(lines, key=lambda line: ORDER.index(line.status))


def headline(lines: Sequence[HealthLine]) -> tuple[str, str]:
    """Return (status, sentence) for the top of the page."""
    judged = [line for line in lines if line.status in (GOOD, WARN, BAD)]
    if not judged:
        return MISSING, "RL has not logged an update yet."
    for status, words in ((BAD, "outside the limit"), (WARN, "near the limit")):
        found = [line.title for line in judged if line.status == status]
        if found:
            return status, f"{', '.join(found)}: {words}. {len(found)} of {len(judged)} lines."
    return GOOD, f"All {len(judged)} lines are within their limits."


def seconds_by_part(series: Mapping[str, Points], stage: str = "rl") -> dict[str, list[tuple[str, float]]]:
    """Return two lists of (part, mean seconds of the last updates). The parts of `seconds` follow each other and add up
    to an update. The parts of `busy` may run at the same time."""
    found: dict[str, list[tuple[str, float]]] = {"seconds": [], "busy": []}
    for name, points in series.items():
        match = re.fullmatch(rf"{re.escape(stage)}/(seconds|busy)/(.+)", name)
        if match:
            found[match[1]].append((match[2], fmean(value for _, value in points[-RECENT:])))
    return found


def scorer_failures(series: Mapping[str, Points], stage: str = "rl") -> list[tuple[str, float, float]]:
    """Return (scorer, failed images, all images) for every scorer that has failed since RL began."""
    found = []
    for name, points in series.items():
        match = re.fullmatch(rf"{re.escape(stage)}/reward/(.+)/failed", name)
        images = series.get(f"{stage}/reward/{match[1]}/images") if match else None
        if match and images and points[-1][1]:
            found.append((match[1], points[-1][1], images[-1][1]))
    return found


def _line(check: HealthCheck, series: Mapping[str, Points], stage: str) -> HealthLine:
    matching = {
        name.partition("/")[2]: points
        for name, points in series.items()
        if name.partition("/")[0] == stage and re.fullmatch(check.pattern, name.partition("/")[2])
    }
    if not matching:
        return HealthLine(check.title, MISSING, "\N{EN DASH}", check.limit, f"Not in metrics.jsonl: {check.named}.")
    by_step: dict[float, list[float]] = {}
    for points in matching.values():
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    values = [check.join(found) for _, found in sorted(by_step.items())]
    parts = [(name, check.show(points[-1][1])) for name, points in sorted(matching.items())] if check.each else []
    value = check.show(check.value(values))
    judged = [[value for _, value in points] for points in matching.values()] if check.each else [values]
    status = min((check.judge(own) for own in judged), key=ORDER.index)  # the worst number decides
    return HealthLine(check.title, status, value, check.limit, check.words, values, parts)


def rl_stage(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the newest stage of RL in the metrics, or None."""
    return next((row["stage"] for row in reversed(metrics) if str(row["stage"]).startswith("rl")), None)

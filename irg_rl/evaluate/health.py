"""Turns the metrics of RL into lines that say whether RL is healthy: a value, a threshold, and words.

A line without values says which number is missing in metrics.jsonl. Nothing is guessed. Both `irg-rl view` and the
report lead RL with these lines. `view` adds lines that are computed from stored groups, because metrics.jsonl does not
have their numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from irg_rl.evaluate.health_checks import (
    BAD,
    CHECKS,
    GOOD,
    MISSING,
    PLAIN,
    RECENT,
    WARN,
    HealthCheck,
)

ORDER = (BAD, WARN, GOOD, PLAIN, MISSING)
OF_REFINEMENT = ("stopped", "grad_norm/vision")
"""Logged numbers that say nothing if there is no refinement."""
RESERVED = ("stage", "step", "time")
Points = list[tuple[float, float]]
"""The values of a logged number: (step, value), in the order of the steps."""


@dataclass(frozen=True)
class HealthLine:
    title: str
    status: str
    value: str
    limit: str
    words: str
    values: list[float] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)  # name of a number -> its newest value


def series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return `stage/name` -> points (step, value) for every logged number of a run, in the order of the steps. Values
    that are not finite numbers are left out."""
    found: dict[str, dict[float, float]] = {}
    for row in metrics:
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if is_number and name not in RESERVED:
                found.setdefault(f"{row['stage']}/{name}", {})[float(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def health(series: Mapping[str, Points], stage: str = "rl") -> list[HealthLine]:
    """Return one line per check. `series` has the points of every logged number, by `stage/name`. Numbers of refinement
    are left out if RL draws only one image per trajectory: nothing can stop there, and the vision tower sees nothing.
    """
    if draws_once(series, stage):
        series = {name: points for name, points in series.items() if name.partition("/")[2] not in OF_REFINEMENT}
    return [_line(check, series, stage) for check in CHECKS]


def draws_once(series: Mapping[str, Points], stage: str) -> bool:
    """Return whether no trajectory has had a second image, although none has stopped."""
    images, stopped = (series.get(f"{stage}/{name}", []) for name in ("images", "stopped"))
    return bool(images and stopped) and all(v <= 1 for _, v in images) and not any(v for _, v in stopped)


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

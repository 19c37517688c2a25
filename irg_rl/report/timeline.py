"""A figure of when each actor worked: one row for each actor, one bar for each piece of work."""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from irg_rl.cluster.timeline import FILE
from irg_rl.report.curves import STYLE, TURN_COLOURS, ReportFigure, finish

ROWS = 24
"""Largest number of actors in the figure."""
UPDATES = 5
"""Number of updates in the figure, the newest ones."""


def draw_timeline(run: Path) -> ReportFigure | None:
    """Return the figure of a run's timeline.jsonl, or None if the file is missing or has no whole line."""
    rows = _read(run / FILE)
    if not rows:
        return None
    last = max(row["update"] for row in rows)
    shown = [row for row in rows if row["update"] > last - UPDATES]
    zero = min(row["began"] for row in shown)
    actors = sorted({row["actor"] for row in shown}, key=_order)
    bars: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in shown:
        bars[row["actor"], row["what"]].append((row["began"] - zero, row["ended"] - row["began"]))
    kinds = sorted({what for _, what in bars})
    drawn = actors[:ROWS]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.9 + 0.22 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        labelled: set[str] = set()
        for (actor, what), spans in sorted(bars.items()):
            if actor in drawn:
                label = "" if what in labelled else what
                labelled.add(what)
                colour = TURN_COLOURS[kinds.index(what) % len(TURN_COLOURS)]
                axes.broken_barh(spans, (drawn.index(actor) - 0.4, 0.8), facecolors=colour, label=label)
        axes.set_yticks(range(len(drawn)), drawn, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=min(len(labels), 5), fontsize=8)
        left_out = f" {len(actors) - len(drawn)} more actors are left out." if len(actors) > len(drawn) else ""
        first = max(1, last - UPDATES + 1)
        return finish(figure, "When each actor worked", f"Updates {first} to {last}, n = {len(shown)}.{left_out}")


def _read(path: Path) -> list[dict]:
    """Return the lines of the file that are whole."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"update", "actor", "what", "began", "ended"} <= row.keys():
            rows.append(row)
    return rows


def _order(actor: str) -> tuple[bool, str, int]:
    """Sort the learner first, and then actors by the name of their fleet and by their number."""
    fleet, _, number = actor.rpartition(" ")
    return actor != "learner", fleet, int(number) if number.isdecimal() else 0

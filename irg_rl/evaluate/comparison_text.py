"""Writes a comparison as five Markdown tables that fit into a terminal of 100 columns.

Numbers have three digits after the point and no zero before it, as in docs/results.md. A number is computed from many
results, one per prompt. Every table shows two counts: the number of results, and the number of different sets of
constraints. (Prompts that ask for the same thing in other words have the same set.) The interval of the accuracy of a
single model is only in the JSON.
"""

from collections.abc import Iterable, Sequence

from irg_rl.evaluate.compare import BaselineComparison, BaselineRow, RepairRow, Standing
from irg_rl.evaluate.intervals import Measure

NOTES = """\
RL - base: paired by set of constraints. "these seeds": sets are the unit, seeds
are as they are. "another seed": seeds are the unit, crossed with sets. n (sets):
rows, different sets among them. Mean over tasks: every kind of prompt counts the
same, however many prompts it has. Best of n: first images of the SFT checkpoint,
an oracle picks; its turn k is the best of k. Repair: right at the last turn, of
those with a wrong first image. redraw, shuffled: RL's own controls, a new draw
and another prompt's reflection. Damage: wrong at the last turn, of those with a
right first image. All intervals: 95 %."""

GAINS = ("RL -", "seed", "RL", "base", "these seeds", "another seed", "n (sets)")


def to_markdown(comparison: BaselineComparison) -> str:
    """Return the comparison as Markdown: five tables, one below the other, and then an explanation of the terms."""
    repaired = [standing for standing in comparison.standings if standing.repair is not None]
    parts = [
        "Right at the last turn",
        table(GAINS, _gains(comparison.rows, balanced=False)),
        "Right at the last turn, mean over tasks",
        table(GAINS, _gains(comparison.rows, balanced=True)),
        "Right at each turn",
        _by_turn(comparison.standings),
        "Repair of RL beside baselines and controls",
        table(["RL -", "seed", "RL", "base", "difference", "ratio", "n (sets)"], map(_repair, comparison.repairs)),
        "Repair and damage of each model",
        table(["model", "seed", "repair", "n (sets)", "damage", "n (sets)"], map(_kept, repaired)),
        NOTES,
    ]
    return "\n\n".join(parts) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Cells are padded to the width of their column."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def figure(value: float, signed: bool = False) -> str:
    """Return a number as text with three digits after the point, such as .512, -.023 or 1.000. If `signed` is true, a
    positive number begins with a plus, as in +.150. Return "-" for nan."""
    if value != value:
        return "-"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def interval(measure: Measure, signed: bool = False) -> str:
    """Return a value with its interval as text, such as .512 [.431, .590]. If `signed` is true, a positive value begins
    with a plus. If the measure has no interval, return only the value."""
    if measure.low != measure.low:
        return figure(measure.value, signed)
    return f"{figure(measure.value, signed)} [{figure(measure.low)}, {figure(measure.high)}]"


def cases(measure: Measure) -> str:
    """Return two counts as text, such as "300 (173)". The first is the number of rows (results, one per prompt) from
    which the measure was computed. The second is the number of different sets of constraints in these rows. (Prompts
    that ask for the same thing in other words have the same set.)"""
    return f"{measure.n} ({measure.sets})"


def _seed(seed: int | None) -> str:
    return "all" if seed is None else str(seed)


def _gains(rows: Sequence[BaselineRow], balanced: bool) -> list[list[str]]:
    """Return the rows of the tables that say how much more accurate RL is than each baseline. If `balanced` is true,
    every task (kind of prompt) has the same weight. Only rows that are pooled over several seeds have an interval for a
    new seed."""
    alone = "" if any(row.across_seeds for row in rows) else "one seed"
    lines = []
    for row in rows:
        found = row.balanced if balanced else row
        told = interval(found.across_seeds, signed=True) if found.across_seeds else alone
        figures = [figure(found.rl.value), figure(found.other.value), interval(found.gained, signed=True), told]
        lines.append([row.baseline, _seed(row.seed), *figures, cases(found.gained)])
    return lines


def _repair(row: RepairRow) -> list[str]:
    ratio = row.ratio
    times = "-" if ratio.value != ratio.value else f"{ratio.value:.2f}"
    times += "" if ratio.low != ratio.low else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    figures = [figure(row.rl.value), figure(row.other.value), interval(row.gained, signed=True), times]
    return [row.against, _seed(row.seed), *figures, cases(row.rl)]


def _by_turn(standings: Sequence[Standing]) -> str:
    width = max(len(standing.accuracy) for standing in standings)
    rows = []
    for standing in standings:
        turns = [figure(measure.value) for measure in standing.accuracy]
        turns += [""] * (width - len(turns))
        about = [f"{standing.renders:.2f}", cases(standing.accuracy[0])]
        rows.append([standing.model, _seed(standing.seed), *turns, *about])
    return table(["model", "seed", *(f"t{k + 1}" for k in range(width)), "renders", "n (sets)"], rows)


def _kept(standing: Standing) -> list[str]:
    repair, damage = standing.repair, standing.damage
    assert repair is not None and damage is not None
    figures = [interval(repair), cases(repair), interval(damage), cases(damage)]
    return [standing.model, _seed(standing.seed), *figures]

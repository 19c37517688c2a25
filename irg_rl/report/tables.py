"""Evaluation summaries as rows of text for the report. A share is printed in percent, with its interval and n."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

REAL = "real"
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A figure, its interval in small print, and how many cases it rests on."""

    text: str
    interval: str = ""
    n: str = ""


@dataclass(frozen=True)
class TableRow:
    """`group` heads the rows that belong together and is empty in all but the first of them."""

    group: str
    label: str
    cells: list[Cell]
    strong: bool = False
    explanation: str = ""


@dataclass(frozen=True)
class Tile:
    """One of the few figures that a reader should leave with."""

    label: str
    value: str
    detail: str
    good: bool | None = None


def share(measure: dict | None, signed: bool = False) -> Cell:
    """A share in [0, 1], or a difference of shares, as percent or points."""
    return _cell(measure, lambda v: f"{100 * v:+.1f}" if signed else f"{100 * v:.1f}", "" if signed else " %")


def number(measure: dict | None) -> Cell:
    """A mean on its own scale."""
    return _cell(measure, lambda v: f"{v:.3g}", "")


def _cell(measure: dict | None, show: Callable[[float], str], unit: str) -> Cell:
    if measure is None or measure.get("value") is None:
        return Cell(MISSING)
    n = str(measure["n"]) if "n" in measure else ""
    if measure.get("low") is None or measure.get("high") is None:
        return Cell(show(measure["value"]) + unit, "", n)
    return Cell(show(measure["value"]) + unit, f"{show(measure['low'])} to {show(measure['high'])}", n)


_BY_TURN = (
    ("accuracy", "right", "share of trajectories whose image in hand is right", True),
    ("score", "graded score", "mean in [0, 1], 1 only if right", False),
    ("repair", "repair", "right now, of those with a wrong first image", True),
    ("damage", "damage", "wrong now, of those with a right first image", True),
)
_REAL_ONLY = (
    ("stop_rate", "has stopped", "said “nothing to change” by this turn"),
    ("stop_when_right", "stops when right", "of those whose image in hand is right"),
    ("stop_when_wrong", "stops when wrong", "of those whose image in hand is wrong"),
    ("reflection_accuracy", "reflection true", "stated defects are those the checker reads in the image before"),
)


def by_turn(evaluation: dict) -> list[TableRow]:
    """One evaluation: every measure, arm beside arm, a column per turn."""
    arms = evaluation["arms"]
    turns = max(summary["turns"] for summary in arms.values())
    rows: list[TableRow] = []
    for key, label, explanation, is_share in _BY_TURN:
        show = share if is_share else number
        for place, (arm, summary) in enumerate(arms.items()):
            cells = [show(measure) for measure in summary[key]]
            rows.append(_row(label, explanation, place, arm, cells, turns, strong=arm == REAL))
        for control, differences in evaluation["differences"].items():
            if key in differences:
                cells = [share(measure, signed=True) for measure in differences[key]]
                rows.append(_row(label, explanation, 1, f"real − {control} (points)", cells, turns))
    real = arms[REAL]
    for key, label, explanation in _REAL_ONLY:
        if any(m is not None and m["n"] for m in real[key]):
            rows.append(_row(label, explanation, 0, REAL, [share(m) for m in real[key]], turns))
    for name, means in real["rewards"].items():
        rows.append(
            _row(f"scorer {name}", "mean over images it could score", 0, REAL, [number(m) for m in means], turns)
        )
    return rows


def _row(
    group: str, explanation: str, place: int, label: str, cells: list[Cell], turns: int, strong: bool = False
) -> TableRow:
    padded = cells + [Cell(MISSING)] * (turns - len(cells))
    first = place == 0
    return TableRow(group if first else "", label, padded, strong, explanation if first else "")


def preference(evaluation: dict) -> str:
    """The judge's preference in a sentence, or nothing."""
    real = evaluation["arms"][REAL]
    liked, consistent = real["preference"], real["order_consistency"]
    if liked["value"] is None:
        return ""
    cell = share(liked)
    told = (
        f"Shown first and last image in both orders, the judge prefers the last one to {cell.text} [{cell.interval}], "
    )
    if consistent["value"] is None:
        return f"{told}n={cell.n}."
    return f"{told}n={cell.n}; it names the same image in both orders {share(consistent).text} of the time."


def by_task(evaluations: Sequence[dict]) -> tuple[list[str], list[TableRow]]:
    """Tasks down, for each evaluation first image, last image, repair and damage across; headings and rows."""
    real = [(e["name"], e["arms"][REAL]) for e in evaluations]
    headings = [
        f"{name}: {what}" for name, arm in real for what in ("turn 1", f"turn {arm['turns']}", "repair", "damage")
    ]
    tasks = sorted({task for _, arm in real for task in arm["tasks"]})
    rows = []
    for task in tasks:
        cells: list[Cell] = []
        counts = []
        for _, arm in real:
            found = arm["tasks"].get(task)
            if found is None:
                cells += [Cell(MISSING)] * 4
                continue
            counts.append(str(found["n"]))
            measures = (found["accuracy"][0], found["accuracy"][-1], found["repair"], found["damage"])
            cells += [share(measure) for measure in measures]
        rows.append(TableRow(task, f"n={', '.join(dict.fromkeys(counts))}", cells))
    return headings, rows


def against_baselines(comparison: dict) -> list[TableRow]:
    """RL against each baseline, per seed and pooled."""
    rows, previous = [], None
    for entry in comparison["rows"]:
        name = entry["baseline"]
        seed = "pooled over seeds" if entry["seed"] is None else f"seed {entry['seed']}"
        ratio = entry["repair_ratio"]
        cells = [
            share(entry["rl_accuracy"]),
            share(entry["baseline_accuracy"]),
            share(entry["gained"], signed=True),
            number(ratio),
            share(entry["rl_damage"]),
            Cell(f"{entry['rl_renders']:.2f} / {entry['baseline_renders']:.2f}"),
        ]
        rows.append(TableRow("" if name == previous else name, seed, cells, strong=entry["seed"] is None))
        previous = name
    return rows


def tiles(evaluations: Sequence[dict]) -> list[Tile]:
    """What to leave with: the gate, first and last image of the latest evaluation, repair beside its best control."""
    if not evaluations:
        return []
    first, latest = evaluations[0], evaluations[-1]
    real = latest["arms"][REAL]
    shown = []
    gate = next((e["gate"] for e in evaluations if e["gate"]), None)
    if gate is not None:
        verdict = "passed" if gate["passed"] else "not passed"
        shown.append(
            Tile("gate: refinement is real", verdict, f"at turn {gate['turn'] + 1}, after SFT", gate["passed"])
        )
    shown.append(Tile("first image right", share(real["accuracy"][0]).text, _since(first, latest, "accuracy", 0)))
    shown.append(
        Tile(
            f"right after {real['turns']} turns",
            share(real["accuracy"][-1]).text,
            _since(first, latest, "accuracy", -1),
        )
    )
    if real["turns"] > 1:
        shown.append(Tile("repair", share(real["repair"][-1]).text, _best_control(latest)))
        shown.append(Tile("damage", share(real["damage"][-1]).text, f"of {real['damage'][-1]['n']} right first images"))
    return shown


def _since(first: dict, latest: dict, key: str, turn: int) -> str:
    measure = latest["arms"][REAL][key][turn]
    here = f"{latest['name']}, n={measure['n']}"
    if first is latest:
        return here
    return f"{here}; {first['name']}: {share(first['arms'][REAL][key][turn]).text}"


def _best_control(evaluation: dict) -> str:
    controls = {
        arm: summary["repair"][-1]
        for arm, summary in evaluation["arms"].items()
        if arm != REAL and summary["turns"] > 1 and summary["repair"][-1]["value"] is not None
    }
    if not controls:
        return "no control measured"
    return "; ".join(f"{arm} {share(measure).text}" for arm, measure in controls.items())

"""Turns evaluation summaries into rows of text for the report.

A share is printed in percent, with its interval and two counts. The first count is the number of rows from which the
share was computed. The second count is the number of different sets of constraints in these rows. A set of constraints
is all that a prompt asks for. Prompts that ask for the same thing in other words have the same set.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from irg_rl.evaluate.gate import NOT_PASSED, PASSED, gate_verdict, line_verdict
from irg_rl.report.words import arm_words

REAL = "real"
MISSING = "–"
MINUS = "\N{MINUS SIGN}"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class TableCell:
    """The texts of one table cell: a value, its interval (shown in small print), and two counts such as `300 of 173
    sets`. The counts are the number of rows from which the value was computed, and the number of different sets of
    constraints in these rows. A set of constraints is all that a prompt asks for."""

    text: str
    interval: str = ""
    n: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of a table. Neighbouring rows can form a group with one heading. In the first row of a group, `group` is
    this heading, and `span` is the number of rows in the group. In the other rows of the group, `group` is empty."""

    group: str
    label: str
    cells: list[TableCell]
    strong: bool = False
    explanation: str = ""
    span: int = 1


@dataclass(frozen=True)
class Tile:
    """A box of the report with one of its most important values: a label, the value, a detail, and whether the value is
    good (None if this cannot be said)."""

    label: str
    value: str
    detail: str
    good: bool | None = None


def share(measure: dict | None) -> TableCell:
    """Return a table cell that shows a measured share in [0, 1] in percent, or a dash if there is no value."""
    return _cell(measure, "{:.1f}", "–", scale=100, unit=f"{NARROW_SPACE}%")


def points(measure: dict | None) -> TableCell:
    """Return a table cell that shows a measured difference of two shares in percentage points, with its sign. It shows
    a dash if there is no value."""
    return _cell(measure, "{:+.1f}", " to ", scale=100)


def times(measure: dict | None) -> TableCell:
    """Return a table cell that shows a measured ratio, such as `1.85 ×`, or a dash if there is no value."""
    return _cell(measure, "{:.2f}", " to ", unit=f"{NARROW_SPACE}×")


def number(measure: dict | None) -> TableCell:
    """Return a table cell that shows a measured mean with three digits after the point, not in percent. It shows a dash
    if there is no value."""
    return _cell(measure, "{:.3f}", " to ")


def amount(measure: dict | None) -> TableCell:
    """Return a table cell that shows a measured mean with one digit after the point, such as `1,204.5`. It shows a dash
    if there is no value."""
    return _cell(measure, "{:,.1f}", " to ")


def cases(measure: dict) -> str:
    """Return two counts as text, such as `300 of 173 sets`: the number of rows from which a measure was computed, and
    the number of different sets of constraints in these rows. A set of constraints is all that a prompt asks for."""
    if "n" not in measure:
        return ""
    return str(measure["n"]) if measure.get("sets") is None else f"{measure['n']} of {measure['sets']} sets"


def _cell(measure: dict | None, form: str, between: str, scale: float = 1, unit: str = "") -> TableCell:
    if measure is None or measure.get("value") is None:
        return TableCell(MISSING)
    n = cases(measure)
    value = form.format(scale * measure["value"]).replace("-", MINUS) + unit
    low, high = measure.get("low"), measure.get("high")
    if low is None or high is None:
        return TableCell(value, "", n)
    return TableCell(value, between.join(form.format(scale * end).replace("-", MINUS) for end in (low, high)), n)


_BY_TURN = (
    ("missing", "no verdict", "share of images that nobody could judge; they count neither as right nor wrong", share),
    ("accuracy", "right", "share of trajectories whose image in hand is right", share),
    ("score", "graded score", "mean in [0, 1], 1 only if right", number),
    ("repair", "repair", "right now, of those with a wrong first image", share),
    ("damage", "damage", "wrong now, of those with a right first image", share),
    ("preferred", "preferred to the first image", "by the judge, asked in both orders; a tie counts as half", share),
    ("ties", "ties", "the judge names another image when the two change places", share),
    ("unanswered", "pairs without an answer", "the judge refused or failed; they count nowhere else", share),
)
_REAL_ONLY = (
    ("stop_rate", "has stopped", "said “nothing to change” by this turn"),
    ("stop_when_right", "stops when right", "of those whose image in hand is right"),
    ("stop_when_wrong", "stops when wrong", "of those whose image in hand is wrong"),
    ("reflection_accuracy", "reflection true", "stated defects are those the checker reads in the image before"),
)
_STATISTICS = (
    ("sharpness", "sharpness", "mean variance of the Laplacian of the grey values; blur lowers it", amount),
    ("edge_density", "edge density", "share of pixels that lie on an edge", share),
    ("high_frequency_share", "fine detail", "share of the power at high frequencies", share),
)


@dataclass(frozen=True)
class GroupedTable:
    """A table with groups of columns. Each group has a heading. `groups` has one entry per group: (heading, names of
    the group's columns). Each row has one cell per column, for the columns of all groups in order."""

    groups: list[tuple[str, list[str]]]
    rows: list[TableRow]


def by_turn(evaluations: Sequence[dict]) -> GroupedTable:
    """Return a table that shows how every measure, such as the accuracy, changes over the turns. Each measure has one
    row for the model's own refinement. For each control, it has two more rows: the control, and the difference between
    the own refinement and the control. Controls lack some measures, such as the stop rate, and such a measure has only
    the first row. A control has the same first images, but replaces the later images. Their replacement is a plain new
    draw, or a refinement that follows the reflection of another prompt. Each evaluation has its own group of columns,
    with one column per turn."""
    widths = [max(summary["turns"] for summary in e["arms"].values()) for e in evaluations]
    rows: list[TableRow] = []
    for line in _lines_by_turn(evaluations):
        cells = [
            line.show(m) for found, width in zip(line.measures, widths) for m in found + [None] * (width - len(found))
        ]
        if any(cell.text != MISSING for cell in cells):
            rows.append(TableRow(line.group, line.label, cells, line.label == arm_words(REAL), line.explanation))
    rows = headed_once(rows)
    groups = [(e["name"], [f"turn {k + 1}" for k in range(width)]) for e, width in zip(evaluations, widths)]
    return GroupedTable(groups, rows)


def headed_once(rows: Sequence[TableRow]) -> list[TableRow]:
    """Return copies of the rows in which no heading is repeated. Neighbouring rows with the same heading `group` belong
    together. Only their first row keeps the heading, and its `span` is set to their number."""
    headed: list[TableRow] = []
    for _, found in groupby(rows, key=lambda row: row.group):
        first, *rest = found
        headed.append(replace(first, span=1 + len(rest)))
        headed += [replace(row, group="", explanation="") for row in rest]
    return headed


@dataclass(frozen=True)
class _TableLine:
    """The content of one table row. `measures` has one list per evaluation, and each list has one measure per turn.
    `show` turns a measure into a table cell."""

    group: str
    explanation: str
    label: str
    show: Callable[[dict | None], TableCell]
    measures: list[list[dict | None]]


def _lines_by_turn(evaluations: Sequence[dict]) -> Iterator[_TableLine]:
    arms = sorted(dict.fromkeys(arm for e in evaluations for arm in e["arms"]), key=lambda arm: arm != REAL)
    for key, group, explanation, show in _BY_TURN:
        for arm in arms:
            found = [e["arms"].get(arm, {}).get(key, []) for e in evaluations]
            yield _TableLine(group, explanation, arm_words(arm), show, found)
        for control in arms[1:]:
            found = [e["differences"].get(control, {}).get(key, []) for e in evaluations]
            yield _TableLine(group, explanation, f"{arm_words(REAL)} − {arm_words(control)}", points, found)
    for key, group, explanation in _REAL_ONLY:
        yield _TableLine(group, explanation, arm_words(REAL), share, [e["arms"][REAL][key] for e in evaluations])
    yield from _lines_of_statistics(evaluations, arms)
    for name in sorted({name for e in evaluations for name in e["arms"][REAL]["rewards"]}):
        found = [e["arms"][REAL]["rewards"].get(name, []) for e in evaluations]
        yield _TableLine(f"scorer {name}", "mean over images it could score", arm_words(REAL), number, found)


def _lines_of_statistics(evaluations: Sequence[dict], arms: Sequence[str]) -> Iterator[_TableLine]:
    """Yield the lines of the statistics of the pixels: their means in every arm, and how the means have changed since
    the first image. Evaluations of older versions have no statistics."""

    def found(arm: str, key: str, what: str) -> list[list[dict | None]]:
        return [e["arms"].get(arm, {}).get("statistics", {}).get(key, {}).get(what, []) for e in evaluations]

    for key, group, explanation, show in _STATISTICS:
        for arm in arms:
            yield _TableLine(group, explanation, arm_words(arm), show, found(arm, key, "level"))
        for arm in arms:
            yield _TableLine(group, explanation, f"{arm_words(arm)} ÷ turn 1", times, found(arm, key, "change"))


def preference(evaluation: dict) -> str:
    """Return a sentence that says how often the judge prefers the image of the last turn to the first one, as in
    `63.3 : 36.7`. Return "" if no judge was asked."""
    real = evaluation["arms"][REAL]
    if not real.get("preferred"):
        return ""
    liked, ties, silent = (real[name][-1] for name in ("preferred", "ties", "unanswered"))
    name = evaluation["settings"].get("preference", "")
    asked = f"The judge {name}, asked in both orders about the first image and that of turn {real['turns']}, "
    unanswered = f"gave no usable answer about {round(silent['value'] * silent['n'])} of {silent['n']} pairs."
    if liked["value"] is None:
        return asked + unanswered
    cell, percent = share(liked), 100 * liked["value"]
    return (
        f"{asked}prefers the refined one at {percent:.1f} : {100 - percent:.1f} [{cell.interval}], n={cell.n}; "
        f"{share(ties).text} of these are ties, which count as half. It {unanswered}"
    )


def settings_line(settings: dict, prefix: str = "") -> str:
    """Return nested settings as one line of text, such as `points 50, guidance.text_scale 4.0`. Empty settings are left
    out. `prefix` is put before each name."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, dict):
            parts.append(settings_line(value, f"{prefix}{key}."))
        elif value not in (None, ""):
            parts.append(f"{prefix}{key} {value}")
    return ", ".join(part for part in parts if part)


def by_task(evaluations: Sequence[dict]) -> GroupedTable:
    """Return a table with one row per task (kind of prompt). For each evaluation it shows four shares: right images at
    the first turn, right images at the last turn, repair and damage. Repair is the share of wrong first images that are
    right at the last turn. Damage is the share of right first images that are wrong at the last turn. Only the model's
    own refinement is shown, not the controls."""
    real = [(e["name"], e["arms"][REAL]) for e in evaluations]
    tasks = sorted({task for _, arm in real for task in arm["tasks"]})
    rows = [TableRow(task, "", [c for _, arm in real for c in _task_cells(arm["tasks"].get(task))]) for task in tasks]
    groups = [(name, ["turn 1", f"turn {arm['turns']}", "repair", "damage"]) for name, arm in real]
    return GroupedTable(groups, rows)


def _task_cells(task: dict | None) -> list[TableCell]:
    if task is None:
        return [TableCell(MISSING)] * 4
    return [share(m) for m in (task["accuracy"][0], task["accuracy"][-1], task["repair"], task["damage"])]


@dataclass(frozen=True)
class GateRow:
    """One requirement of the gate (the test that refinement works), as texts: its name, the measured value, the limit
    (`asked`), and whether it is met (`verdict`, see evaluate/gate.py)."""

    name: str
    cell: TableCell
    asked: str
    verdict: str


def gate_lines(gate: dict) -> list[GateRow]:
    """Return the requirements of the gate (the test that refinement works) as texts, one GateRow each. Some
    requirements compare the model's own refinement with a control. A control has the same first images, but replaces
    the later images. Their replacement is a plain new draw, or a refinement that follows the reflection of another
    prompt. Such differences are shown in percentage points. All other values are shares and are shown in percent."""
    rows = []
    for line in gate["lines"]:
        is_margin = " above " in line["name"]
        unit = "points" if is_margin else "%"
        asked = f"{'at least' if line['at_least'] else 'at most'} {100 * line['threshold']:.0f} {unit}"
        rows.append(GateRow(line["name"], points(line) if is_margin else share(line), asked, line_verdict(line)))
    return rows


def alarm(found: dict) -> Tile:
    """Return a tile (a box of the report) that says whether RL is learning, and the measured values from which this
    verdict was made. `found` is the result of evaluate/learning.py."""
    slope, told = found["slope"], [f"{found['updates']} updates"]
    if slope["value"] is not None:
        ends = "" if slope["low"] is None else f" [{slope['low']:+.4f}, {slope['high']:+.4f}]"
        told.append(f"drawn reward {slope['value']:+.4f}{ends} an update".replace("-", MINUS))
    if found["spread"] is not None:
        told.append(f"{found['spread']:.0%} of the groups have a spread in reward beyond the judge's noise")
    if found["step"] is not None:
        told.append(f"largest step so far {found['step']:.1e} of the weights' size")
    good = None if found["alarmed"] is None else not found["alarmed"]
    return Tile("is RL learning?", found["sentence"], "; ".join(told), good)


def nearest_to_limit(places: Sequence[dict], modality: str | None = None) -> dict | None:
    """Return the row of a ratio check that is nearest to its limit, or None if there is no row. A ratio check compares
    the log-probabilities that the sampler and the learner compute for the same samples. Each row has the largest |log
    ratio| that was found and the limit for it. If `modality` is "text", only rows of texts are used. If it is "image",
    only rows of images are used."""
    own = [place for place in places if modality in (None, place["modality"])]
    return max(own, key=lambda place: place["max"] / place["limit"], default=None)


def tiles(evaluations: Sequence[dict], after: str = "sft") -> list[Tile]:
    """Return the tiles (boxes of the report) with the most important values:

    - The result of the gate (the test that refinement works). If `after` is "rl", the evaluation after RL is used.
      Otherwise, the evaluation after SFT is used.
    - From the latest evaluation, the shares of right images at the first and at the last turn.
    - From the latest evaluation, if it has several turns, repair and damage. Repair is the share of wrong first images
      that are right at the last turn. Damage is the share of right first images that are wrong at the last turn. The
      tile of the repair also shows the repair of each control. A control replaces the model's own refinement, for
      example by a plain new draw.
    """
    if not evaluations:
        return []
    first, latest = evaluations[0], evaluations[-1]
    real = latest["arms"][REAL]
    shown = []
    asked = next((e for e in evaluations if e["gate"] and (e["name"] == "rl") == (after == "rl")), None)
    if asked is not None:
        gate, verdict = asked["gate"], gate_verdict(asked["gate"]["lines"])
        rows = max(line["n"] for line in gate["lines"])
        detail = f"at turn {gate['turn'] + 1} of {asked['name']}, n={rows}"
        good = {PASSED: True, NOT_PASSED: False}.get(verdict)
        shown.append(Tile("gate: is refinement real?", verdict, detail, good))
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
        damage = real["damage"][-1]
        shown.append(Tile("damage", share(damage).text, f"first images that were right: {cases(damage)}"))
    return shown


def _since(first: dict, latest: dict, key: str, turn: int) -> str:
    measure = latest["arms"][REAL][key][turn]
    here = f"{latest['name']}, n={cases(measure)}"
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
    return "; ".join(f"{arm_words(arm)} {share(measure).text}" for arm, measure in controls.items())

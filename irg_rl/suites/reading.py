"""Read the result files in folders of benchmark images, and make one report of them. The report has the figures
(reported numbers) and the evaluation protocol."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError
from irg_rl.evaluate.intervals import Measure
from irg_rl.suites.base import Suite
from irg_rl.suites.judging import LOG, Judged, judged_results, read_log
from irg_rl.suites.scores import Results
from irg_rl.suites.table import Difference, Row, Table
from irg_rl.suites.trees import FINAL, Drawn, Tree, open_drawn

SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Reading:
    """The scores of one tree (a folder with the images of one turn) from one source. The source is the official result
    files or a judge. `results` has the scores, and `rows` has the numbers that are reported from them. The folder
    `Report.drawn[folder]` contains the tree."""

    folder: int
    tree: Tree
    results: Results
    rows: list[Row]
    judge: dict[str, Any] | None = None
    """The judge and its settings if this program judged the images. None if the scores come from official result files.
    """

    @property
    def label(self) -> str:
        return self.tree.label if self.judge is None else f"{self.tree.label} ({self.judge['judge']})"

    def to_dict(self) -> dict[str, Any]:
        return {"tree": self.tree.label, "turn": self.tree.turn, "path": str(self.tree.path), "judge": self.judge,
                "source": self.results.source, "problems": self.results.problems,
                "rows": [row.to_dict() for row in self.rows]}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    after: str
    before: str
    rows: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        return {"after": self.after, "before": self.before, "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class Report:
    suite: Suite
    drawn: list[Drawn]
    readings: list[Reading]
    comparisons: list[Comparison]
    silent: list[str]
    """Labels of the trees (folders with the images of one turn) that have no result file."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "suite", "suite": self.suite.name, "protocol": [list(line) for line in self.protocol()],
            "drawn": [{"path": str(d.path), **d.settings} for d in self.drawn], "without_results": self.silent,
            "trees": [reading.to_dict() for reading in self.readings],
            "differences": [comparison.to_dict() for comparison in self.comparisons],
        }  # fmt: skip

    def protocol(self) -> list[tuple[str, str]]:
        """Return the description of the evaluation protocol as pairs (title, text). The pairs are about the official
        protocol of the suite, the prompts, how the images were drawn, and who scored them."""
        lines = [(f"official {name}", text) for name, text in asdict(self.suite.facts).items()]
        first = self.drawn[0]
        lines.append(("prompts read", f"{self.suite.prompt_set(first.prompts)}; file {first.prompts_file}"))
        for drawn in self.drawn:
            if drawn.settings:
                lines.append((f"drawn, {drawn.trees[0].label}", _drawing(drawn.settings)))
        for reading in self.readings:
            said = "" if reading.judge is None else f", {_judging(reading.judge)}"
            lines.append((f"scored, {reading.label}", reading.results.source + said))
        return lines


def read_folders(suite: Suite, folders: Sequence[Path], prompts: Path | None = None) -> Report:
    """Read the results of all folders and return the report. `prompts` is the path of a prompts file; None means that
    each folder has its own copy. Raises InputError if a folder cannot be read, if the folders have different prompts,
    or if there are no results at all."""
    names = [folder.resolve().name for folder in folders]
    labels = names if len(set(names)) == len(names) else list(map(str, folders))
    drawn = [open_drawn(suite, folder, prompts, label) for folder, label in zip(folders, labels, strict=True)]
    told = [[(p.id, p.text) for p in one.prompts] for one in drawn]
    for one, texts in zip(drawn[1:], told[1:], strict=True):
        if texts != told[0]:
            raise InputError(f"{one.path} was drawn from other prompts than {drawn[0].path}: read them one at a time")
    table = Table(suite, drawn[0].prompts)
    readings, silent = [], []
    for number, one in enumerate(drawn):
        for tree in one.trees:
            found = _readings(suite, number, one, tree, table)
            readings += found
            if not found and tree.turn != FINAL:  # the final tree repeats the last turn, so it needs no results
                silent.append(tree.label)
    if not readings:
        raise InputError(
            f"no results of {suite.title} in {', '.join(str(one.path) for one in drawn)}: looked for "
            f"{suite.looked_for}, and {LOG} of `irg-rl suite judge`"
        )
    return Report(suite, drawn, readings, _comparisons(readings, table), silent)


def _readings(suite: Suite, number: int, drawn: Drawn, tree: Tree, table: Table) -> list[Reading]:
    found = []
    official = suite.read_results(tree.path, drawn.prompts)
    if official.source:
        found.append(Reading(number, tree, official, table.rows(official)))
    for path in sorted(tree.path.glob(LOG)) if isinstance(suite, Judged) else ():
        log = read_log(path)
        results = judged_results(suite, log, drawn.pictures)
        found.append(Reading(number, tree, results, table.rows(results), asdict(log.protocol)))
    return found


def _comparisons(readings: Sequence[Reading], table: Table) -> list[Comparison]:
    """Compare the scores of different turns and folders. Two kinds of differences are computed. Within a folder: each
    turn minus the first turn that has results. Between folders, in the same turn: each further folder minus the first
    folder. Only scores from the same judge are compared."""
    pairs = []
    for after in readings:
        for before in readings:
            same_folder, same_turn = after.folder == before.folder, after.tree.turn == before.tree.turn
            first = next(r for r in readings if r.folder == after.folder and r.judge == after.judge)
            of_turns = same_folder and before is first and after is not first
            of_folders = same_turn and before.folder == 0 and after.folder > 0
            if after.judge == before.judge and (of_turns or of_folders):
                pairs.append((after, before))
    return [Comparison(a.label, b.label, table.differences(b.results, a.results)) for a, b in pairs]


def _judging(protocol: dict[str, Any]) -> str:
    template, further = protocol["template"][:12], protocol["extra_body"]
    return f"template {template}, temperature {protocol['temperature']:g}, further fields {further}"


def _drawing(settings: dict[str, Any]) -> str:
    names = ("model", "prompts_file", "prompts_sha256", "turns", "seed", "preset", "stop")
    return ", ".join(f"{name} {str(settings.get(name))[:60]}" for name in names)


def to_markdown(report: Report) -> str:
    """Return the text of the report in Markdown."""
    readings = report.readings
    lines = [f"# {report.suite.title}", "", *(f"- {name}: {text}" for name, text in report.protocol()), ""]
    lines += ["Values count what is missing as the worst score; intervals are 95 %, by prompt.", ""]
    lines += _table(["figure", *(reading.label for reading in readings)])
    for index, row in enumerate(readings[0].rows):
        lines.append(_line([row.figure, *(_figure(reading.rows[index].value) for reading in readings)]))
    lines.append(_line(["missing", *(_missing(reading) for reading in readings)]))
    if any(row.missing for reading in readings for row in reading.rows):
        for index, row in enumerate(readings[0].rows):
            if row.is_headline:
                only = (_figure(reading.rows[index].judged) for reading in readings)
                lines.append(_line([f"{row.figure}, judged only", *only]))
    for comparison in report.comparisons:
        lines += ["", *_table([f"{comparison.after} minus {comparison.before}", "difference", "prompts", "left out"])]
        lines += [
            _line([row.figure, _figure(row.gained, "+.3f"), str(row.gained.n), str(row.left_out)])
            for row in comparison.rows
        ]
    if report.silent:
        lines += ["", f"No result file in {', '.join(report.silent)} (looked for {report.suite.looked_for})."]
    for reading in readings:
        if problems := reading.results.problems:
            lines += ["", f"Problems in {reading.label}: {len(problems)}"]
            lines += [f"- {problem}" for problem in problems[:SHOWN_PROBLEMS]]
            if len(problems) > SHOWN_PROBLEMS:
                lines.append(f"- and {len(problems) - SHOWN_PROBLEMS} more, all in the JSON")
    return "\n".join(lines) + "\n"


def _missing(reading: Reading) -> str:
    """Return how many scores are missing, as a text such as `3 of 553` (3 missing of 553 expected scores). The figures
    (reported numbers) may need different numbers of scores. The text is then about the figure that needs the most."""
    widest = max(reading.rows, key=lambda row: row.expected)
    return f"{widest.missing} of {widest.expected}"


def _figure(measure: Measure, form: str = ".3f") -> str:
    if measure.value != measure.value:
        return "-"
    interval = "" if measure.low != measure.low else f" [{measure.low:{form}}, {measure.high:{form}}]"
    return f"{measure.value:{form}}{interval}"


def _table(headings: list[str]) -> list[str]:
    return [_line(headings), _line(["---"] * len(headings))]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"

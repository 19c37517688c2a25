"""Reads a run folder for the report. No file is required: a missing file means that its stage has not run yet.

recipe.yaml        the resolved recipe; its first line may be `# digest ...`
environment.json   {"digest", "commit", "versions": {...}, "cores", "started", "command"?}
stages.json        {stage: {"seconds", "done", "budget_minutes", any other facts}}
metrics.jsonl      see report/metrics_log.py
evaluation/*.json  the field "kind" says what the file has: evaluation (see evaluate/suite.py), comparison
                   (evaluate/compare.py), learning (evaluate/learning.py),
                   ratio_check {"rows": [{"modality", "turn", "step", "count", "mean", "max", "limit"}]},
                   parity {"model", "dtype", "cases": [{"weights", "turns", "batch", "packs",
                   "places": [rows as in ratio_check]}]},
                   scorers {"rows": [{"scorer", "against", "agreement", "n", "low"?, "high"?, "note"?}]}
samples/*/         see report/samples.py
**/rejected.jsonl  rows that SFT refused: {"file", "row", "reason"}
**/dropped.jsonl   samples that RL left out: {"step", "group", "sample", "prompt", "reason"}
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml

from irg_rl.errors import InputError
from irg_rl.redact import redact, redact_text
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.samples import INDEX, SampledTrajectory, load_samples
from irg_rl.report.tracking import METRICS

LISTED_FAILURES = 50


@dataclass(frozen=True)
class Failures:
    """Rows that SFT rejected, or samples that RL dropped: their number, how often each reason occurs, and the first
    entries."""

    count: int
    reasons: dict[str, int]
    first: list[dict]


@dataclass
class RunRecord:
    """Everything that a report shows, read from a run folder. `problems` has a message for each file that could not be
    read."""

    folder: Path
    recipe: dict = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict = field(default_factory=dict)
    stages: dict[str, dict] = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    comparison: dict | None = None
    learning: dict | None = None
    ratio_check: dict | None = None
    parities: list[dict] = field(default_factory=list)
    scorers: dict | None = None
    samples: dict[str, list[SampledTrajectory]] = field(default_factory=dict)
    rejected: Failures | None = None
    dropped: Failures | None = None
    problems: list[str] = field(default_factory=list)


def read_run(folder: Path) -> RunRecord:
    """Read everything that the report shows. If a file is broken, no error is raised, but the report has a message
    about it.

    Raises InputError if the folder is not a run.
    """
    if not (folder / "recipe.yaml").is_file() and not (folder / METRICS).is_file():
        raise InputError(f"{folder} is not a run folder: it has neither recipe.yaml nor {METRICS}")
    record = RunRecord(folder)
    _read_recipe(record)
    record.environment = cast(dict, redact(_read_json(record, folder / "environment.json") or {}))
    record.stages = _read_json(record, folder / "stages.json") or {}
    try:
        record.metrics = read_metrics(folder / METRICS)
    except ValueError as error:
        record.problems.append(str(error))
    for path in sorted((folder / "evaluation").glob("*.json")):
        _sort_in(record, _read_json(record, path), path)
    record.evaluations.sort(key=lambda e: (_place(record, e["name"]), e.get("order", 0), e.get("step", 0)))
    for index in sorted((folder / "samples").glob(f"*/{INDEX}")):
        try:
            record.samples[index.parent.name] = load_samples(index.parent)
        except ValueError as error:
            record.problems.append(str(error))
    record.rejected = _failures(record, "rejected.jsonl")
    record.dropped = _failures(record, "dropped.jsonl")
    return record


def is_of_the_run(record: RunRecord, evaluation: dict) -> bool:
    """Return whether an evaluation was made during the run itself. Other evaluations, for example of baselines, were
    made later, after the report of the run had been written."""
    stages = list(record.stages)
    own = stages[: stages.index("report")] if "report" in stages else stages
    return evaluation["name"] in own or not stages


def _place(record: RunRecord, name: str) -> int:
    """Return the sort key of an evaluation. Evaluations named like stages come first, in the order of stages.
    Evaluations that were made later follow."""
    stages = list(record.stages)
    return stages.index(name) if name in stages else len(stages)


def _read_recipe(record: RunRecord) -> None:
    path = record.folder / "recipe.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        record.problems.append(f"{path} is not YAML: {error}")
        return
    if isinstance(settings, dict):
        record.recipe = cast(dict, redact(settings))
        comments = [line for line in text.splitlines() if line.startswith("#")]
        body = yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True)
        record.recipe_text = redact_text("\n".join([*comments, body]))


def _read_json(record: RunRecord, path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        record.problems.append(f"{path} is not JSON: {error}")
        return None
    if not isinstance(content, dict):
        record.problems.append(f"{path} holds a {type(content).__name__}, expected an object")
        return None
    return content


_NEEDED = {
    "evaluation": {"name", "arms", "differences", "gate", "settings"},
    "comparison": {"rows", "standings", "repairs"},
    "learning": {"updates", "spread", "slope", "step", "alarmed", "sentence"},
    "ratio_check": {"rows"},
    "parity": {"model", "dtype", "cases"},
    "scorers": {"rows"},
}
_NEEDED_BY_ROW = {
    "comparison": {"baseline", "seed", "rl_accuracy", "baseline_accuracy", "gained", "gained_across_seeds",
                   "rl_renders", "baseline_renders"},
    "ratio_check": {"modality", "turn", "step", "count", "mean", "max", "limit"},
    "scorers": {"scorer", "against", "agreement", "n"},
}  # fmt: skip
_NEEDED_BY_ARM = {"n", "turns", "prompts", "sets", "seed", "renders", "accuracy", "score", "repair", "damage",
                  "stop_rate", "stop_when_right", "stop_when_wrong", "reflection_accuracy", "preference",
                  "order_consistency", "rewards", "tasks"}  # fmt: skip

_NEEDED_BY_CASE = {"weights", "turns", "batch", "packs", "places"}


def _sort_in(record: RunRecord, content: dict | None, path: Path) -> None:
    if content is None:
        return
    kind = str(content.get("kind"))
    if kind not in _NEEDED:
        record.problems.append(f"{path} is of kind {kind!r}, which the report does not show")
        return
    lacking = _lacking(content, kind)
    if lacking:
        record.problems.append(f"{path} lacks {', '.join(sorted(lacking))}: evaluate again with this version")
        return
    match kind:
        case "evaluation":
            record.evaluations.append(content)
        case "comparison":
            record.comparison = content
        case "learning":
            record.learning = content
        case "ratio_check":
            record.ratio_check = content
        case "parity":
            record.parities.append(content)
        case "scorers":
            record.scorers = content


def _lacking(content: dict, kind: str) -> set[str]:
    """Return the names of the fields that the report needs but that are missing in `content`. `content` is a JSON file
    of the folder `evaluation`, and `kind` is the value of its field "kind"."""
    lacking = _NEEDED[kind] - content.keys()
    for row in content.get("rows", []):
        lacking |= _NEEDED_BY_ROW[kind] - row.keys()
    for arm in content.get("arms", {}).values():
        lacking |= _NEEDED_BY_ARM - arm.keys()
    for case in content.get("cases", []):
        lacking |= _NEEDED_BY_CASE - case.keys()
        for row in case.get("places", []):
            lacking |= _NEEDED_BY_ROW["ratio_check"] - row.keys()
    return lacking


def _failures(record: RunRecord, name: str) -> Failures | None:
    """Read all files with this name in the run folder, which list rejected rows or dropped samples. Return the number
    of entries, the reasons and the first entries. Return None if there is no such file."""
    paths = sorted(record.folder.rglob(name))
    if not paths:
        return None
    count, reasons, first = 0, {}, []
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                entry = {"reason": "a line of the list itself is broken"}
            entry = cast(dict, redact(entry if isinstance(entry, dict) else {"reason": str(entry)}))
            count += 1
            reason = str(entry.get("reason", "no reason given"))
            reasons[reason] = reasons.get(reason, 0) + 1
            if len(first) < LISTED_FAILURES:
                first.append(entry)
    return Failures(count, dict(sorted(reasons.items(), key=lambda item: -item[1])), first)

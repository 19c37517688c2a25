"""Builds the report: one self-contained HTML file made from a run folder. The run may be unfinished.

Prompts, model texts, scorer names and reasons come from outside the program. So everything is escaped. A content policy
in the page also forbids scripts, and all addresses except embedded data.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from irg_rl.algorithms.base import algorithm_type
from irg_rl.config.alarms import AlarmsRecipe
from irg_rl.curve import Curve
from irg_rl.errors import InputError
from irg_rl.evaluate import health
from irg_rl.evaluate.alarms import beginnings
from irg_rl.evaluate.gate import gate_verdict
from irg_rl.evaluate.health_checks import MISSING
from irg_rl.report import comparisons, curves, strips, tables
from irg_rl.report.claim import claim
from irg_rl.report.folder import RunRecord, is_of_the_run, read_run
from irg_rl.report.samples import SampledTrajectory
from irg_rl.report.timeline import draw_timeline
from irg_rl.report.words import number_words

REPORT = "report.html"
SHOWN_SAMPLES = 12


@dataclass(frozen=True)
class StageLine:
    """One line of the report about one stage of the run (for example SFT, RL or an evaluation). It shows the state of
    the stage (done or unfinished), its time and its time budget, in minutes. `share` is the time of the stage divided
    by the time of the longest stage. `share` is shown as the width of a bar."""

    name: str
    state: str
    minutes: float
    budget: float | None
    share: float

    @property
    def over_budget(self) -> bool:
        return self.budget is not None and self.minutes > self.budget


@dataclass(frozen=True)
class Absence:
    """A section of the report that has no data (`part`), and the reason. For example, there are no RL curves because RL
    has not run yet."""

    part: str
    reason: str


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt with trajectories that were sampled from different checkpoints of the run. Each checkpoint has its own
    evaluation. The dict `by_group` maps the name of an evaluation to its trajectory for this prompt. The entries are in
    the order of the evaluations."""

    id: str
    text: str
    task: str
    by_group: dict[str, SampledTrajectory]


def build_report(folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path. The file appears complete or not at all.

    Raises InputError (a ValueError) if the folder is not a run.
    """
    page = render(read_run(folder))
    path = folder / REPORT
    aside = path.with_name(REPORT + ".tmp")
    aside.write_text(page, encoding="utf-8")
    return aside.replace(path)


def render(record: RunRecord) -> str:
    """Return the report as an HTML page. `record` has everything that was read from the run folder."""
    environment = Environment(
        loader=PackageLoader("irg_rl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = png_address
    environment.filters["reward"] = show_reward
    environment.filters["verdict"] = verdict_word
    environment.filters["outcome"] = sample_outcome
    environment.filters["nearest"] = tables.nearest_to_limit
    environment.filters["settings"] = tables.settings_line
    environment.filters["preference"] = tables.preference
    environment.filters["gate_lines"] = tables.gate_lines
    environment.filters["gate_verdict"] = lambda gate: gate_verdict(gate["lines"])
    environment.filters["number_words"] = number_words
    own = algorithm_curves(record)
    evaluations = [e for e in record.evaluations if tables.REAL in e.get("arms", {})]
    lines = health_lines(record)
    gate = record.recipe.get("gate") or {}
    return environment.get_template("report.html.jinja").render(
        record=record,
        name=record.recipe.get("name", record.folder.name),
        description=record.recipe.get("description", ""),
        facts=facts(record),
        stages=stage_lines(record.stages),
        tiles=tables.tiles([e for e in evaluations if is_of_the_run(record, e)], gate.get("after", "sft")),
        gates=[e for e in evaluations if e["gate"]],
        gate_is_off=gate.get("mode") == "off",
        gate_after="RL" if gate.get("after") == "rl" else "SFT",
        evaluations=evaluations,
        turns_table=tables.by_turn(evaluations),
        tasks_table=tables.by_task(evaluations),
        claim=claim([e for e in evaluations if is_of_the_run(record, e)], record.comparison),
        turns_figure=curves.draw_turns(evaluations),
        repair_figure=curves.draw_repair(evaluations),
        health=[line for line in lines if line.status != MISSING],
        not_logged=[line.title for line in lines if line.status == MISSING],
        health_headline=health.headline(lines),
        baselines=comparisons.against_baselines(record.comparison) if record.comparison else [],
        repairs=comparisons.repairs(record.comparison) if record.comparison else [],
        standings=comparisons.standings(record.comparison) if record.comparison else None,
        alarm=tables.alarm(record.learning) if record.learning else None,
        rings=rings(record),
        curves=curves.draw_curves(record.metrics, own),
        timeline=draw_timeline(record.folder),
        not_drawn=curves.not_drawn(record.metrics, own),
        samples=by_prompt(record),
        absences=absences(record),
        share=tables.share,
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def health_lines(record: RunRecord) -> list[health.HealthLine]:
    """Return the lines about the health of RL, those that need a look first. Without RL, there are none."""
    stage = health.rl_stage(record.metrics)
    return health.in_order(health.health(health.series(record.metrics), stage)) if stage else []


def algorithm_curves(record: RunRecord) -> Sequence[Curve]:
    """Return the figures that the run's RL algorithm declares. If the algorithm cannot be imported, add a message to
    `record.problems` and return no figures. The report is still written."""
    rl = record.recipe.get("rl")
    if not isinstance(rl, dict):
        return ()
    try:
        return algorithm_type(str(rl.get("algorithm", "grpo"))).curves
    except InputError as error:
        record.problems.append(f"its own figures are left out: {error}")
        return ()


def rings(record: RunRecord) -> list[str]:
    """Return one sentence for each time that an alarm of RL began to ring. The alarms are computed again from
    metrics.jsonl, with the settings of the recipe. If these are broken, add a message to `record.problems`."""
    rl = record.recipe.get("rl")
    try:
        settings = AlarmsRecipe.model_validate((rl.get("alarms") if isinstance(rl, dict) else None) or {})
    except ValidationError as error:
        record.problems.append(f"rl.alarms of recipe.yaml: {error.errors()[0]['msg']}")
        return []
    found = beginnings([row for row in record.metrics if row["stage"] == "rl"], settings)
    return [state.sentence for state in found]


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return (name, value) pairs that say how the run was made. Examples are the recipe digest, the commit, the seeds
    and the versions of packages."""
    about = record.environment
    found = {
        "recipe digest": about.get("digest"),
        "commit": about.get("commit"),
        "seed": record.recipe.get("seed"),
        "seed of RL": (record.recipe.get("rl") or {}).get("seed"),
        "command": about.get("command"),
        "started": about.get("started"),
        "cores": about.get("cores"),
    }
    found |= {str(package): version for package, version in about.get("versions", {}).items()}
    return [(name, str(value)) for name, value in found.items() if value is not None]


def stage_lines(stages: dict[str, dict]) -> list[StageLine]:
    longest = max((float(s.get("seconds", 0)) for s in stages.values()), default=0.0)
    lines = []
    for name, entry in stages.items():
        seconds = float(entry.get("seconds", 0))
        budget = entry.get("budget_minutes")
        lines.append(
            StageLine(
                name=name,
                state="done" if entry.get("done") else "unfinished",
                minutes=seconds / 60,
                budget=None if budget is None else float(budget),
                share=seconds / longest if longest else 0.0,
            )
        )
    return lines


def absences(record: RunRecord) -> list[Absence]:
    """Return the sections of the report that have no data, each with the reason."""
    arms = {arm for e in record.evaluations for arm in e["arms"]}
    stages = {row["stage"] for row in record.metrics}
    has_rl = any(stage.startswith("rl") for stage in stages)
    rejected = "none was rejected" if stages else "no training stage has logged a step yet"
    checks = [
        (bool(record.evaluations), "evaluation", "no checkpoint has been evaluated yet"),
        ({"redraw", "shuffled"} <= arms, "controls", "the evaluation with both controls has not run"),
        (any(e["gate"] for e in record.evaluations), "gate", "the evaluation after SFT has not run"),
        (bool(stages), "training curves", "no training stage has logged a step yet"),
        (has_rl, "RL curves", "the RL stage has not run"),
        (record.comparison is not None, "RL against baselines", "the comparison has not run"),
        (record.ratio_check is not None, "ratio check", "the RL stage has not begun"),
        (record.scorers is not None, "scorer agreement", "the scorers have not been tested"),
        (bool(record.samples), "picture strips", "no samples have been drawn yet"),
        (record.rejected is not None, "rejected rows", rejected),
        (record.dropped is not None, "dropped samples", "none was dropped" if has_rl else "the RL stage has not begun"),
        (bool(record.stages), "times per stage", "no stage has begun"),
    ]
    return [Absence(part, reason) for present, part, reason in checks if not present]


def by_prompt(record: RunRecord) -> list[SampledPrompt]:
    """Return the first SHOWN_SAMPLES prompts for which the run saved sampled trajectories. Each prompt has one
    trajectory for every checkpoint with saved samples."""
    order = [e["name"] for e in record.evaluations]
    groups = sorted(record.samples, key=lambda name: (order.index(name) if name in order else len(order), name))
    found: dict[str, SampledPrompt] = {}
    for group in groups:
        for sample in record.samples[group]:
            prompt = found.setdefault(sample.prompt_id, SampledPrompt(sample.prompt_id, sample.prompt, sample.task, {}))
            prompt.by_group[group] = sample
    return list(found.values())[:SHOWN_SAMPLES]


def png_address(pixels: np.ndarray) -> str:
    """Return a data URL that contains the image as PNG. The image is first enlarged or reduced to a readable size."""
    return "data:image/png;base64," + base64.b64encode(strips.png(strips.fit(pixels))).decode()


def show_reward(value: float | None) -> str:
    """Return a score as text. A failed score is shown as "failed", never as a number."""
    return "failed" if value is None else f"{value:.2f}"


def verdict_word(correct: bool | None) -> str:
    return "unjudged" if correct is None else "right" if correct else "wrong"


def sample_outcome(sample: SampledTrajectory) -> str:
    """Return what happened to the images of a trajectory, in a few words such as "repaired". Return "" if the first or
    the last image has no verdict."""
    verdicts = [turn.correct for turn in sample.turns if turn.image is not None]
    if not verdicts or verdicts[0] is None or verdicts[-1] is None:
        return ""
    words = {(False, True): "repaired", (True, False): "damaged", (True, True): "stayed right"}
    if len(verdicts) == 1:
        return "right at once" if verdicts[0] else "wrong, not refined"
    return words.get((verdicts[0], verdicts[-1]), "stayed wrong")

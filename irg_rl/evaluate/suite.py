"""One evaluation of one checkpoint, as the JSON that the report reads. It has the results of the model's own refinement
(called `real`) and of the controls. It also has the difference between `real` and each control. A control continues
from the same first images, but without the model's own refinement."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from irg_rl.evaluate import intervals, metrics, outcomes
from irg_rl.evaluate.gate import GateReport
from irg_rl.evaluate.outcomes import Outcomes

REAL = "real"
REDRAW = "redraw"  # a control: turn k >= 1 is a new first image from another seed, without image or reflection
SHUFFLED = "shuffled"  # a control: the reflection comes from another prompt


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one checkpoint. `name` labels the checkpoint in the report (`sft`, `rl`, ...). `arms` has one
    table of results for each arm. An arm is one way to continue from the same first images. The arm `real` is the
    model's own refinement and is always there. All other arms are controls. `gate` is the result of the check whether
    refinement really helps, or None if this was not checked."""

    name: str
    arms: Mapping[str, Outcomes]
    step: int = 0
    order: int = 0  # position among the evaluations of a run
    gate: GateReport | None = None
    settings: Mapping[str, object] = field(default_factory=dict)  # guidance, denoising steps, history, ...

    def summary(self) -> dict:
        """Return a dict that can be written as JSON. It has the measures of the model's own refinement (`real`) and of
        every control. It also has the difference between `real` and each control, with paired confidence intervals.
        Lists have one entry per turn."""
        real = self.arms[REAL]
        return {
            "kind": "evaluation",
            "name": self.name,
            "step": self.step,
            "order": self.order,
            "settings": dict(self.settings),
            "arms": {arm: metrics.summarize(table) for arm, table in self.arms.items()},
            "differences": {arm: _differences(real, control) for arm, control in self.arms.items() if arm != REAL},
            "gate": None if self.gate is None else self.gate.to_dict(),
        }

    def save(self, folder: Path) -> Path:
        """Write one table `<name>.<arm>.parquet` for each arm, and then the summary `<name>.json`. (An arm is the
        model's own refinement, or a control.) The JSON file is written last. So all files are complete if the JSON file
        exists. Return the path of the JSON file."""
        folder.mkdir(parents=True, exist_ok=True)
        for arm, table in self.arms.items():
            outcomes.save(table, folder / f"{self.name}.{arm}.parquet")
        return write_json(folder / f"{self.name}.json", self.summary())


def write_json(path: Path, content: dict) -> Path:
    """Write a JSON file atomically, so that it is never incomplete, and return its path."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return aside.replace(path)


def _differences(real: Outcomes, control: Outcomes) -> dict:
    turns = range(1, min(real.turns, control.turns))

    def gained(metric: metrics.Metric) -> list[dict | None]:
        return [None, *(intervals.difference(metric(real, turn), metric(control, turn)).to_dict() for turn in turns)]

    return {name: gained(m) for name, m in _COMPARED.items()}


_COMPARED: dict[str, metrics.Metric] = {
    "accuracy": metrics.accuracy,
    "repair": metrics.repair,
    "damage": metrics.damage,
}

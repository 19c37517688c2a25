"""What the lists of the page say about a run: its state, its stages, its last reward and its accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from irg_rl.report.metrics_log import METRICS
from irg_rl.view.evaluated import evaluation_names
from irg_rl.view.groups import group_folders
from irg_rl.view.run_files import RunFiles
from irg_rl.view.shown import SMALL_SIDE
from irg_rl.view.sources import RunSource
from irg_rl.view.values import number, section
from irg_rl.view.words import ago


@dataclass(frozen=True)
class RunLine:
    """One line of the list of runs."""

    source: RunSource
    state: str
    updates: int
    reward: float | None
    accuracy: float | None
    evaluation: str  # what `accuracy` was measured by, in words
    written: float  # time of the last change of metrics.jsonl, in seconds since 1970
    problem: str

    @property
    def ago(self) -> str:
        return ago(self.written)


def run_line(source: RunSource) -> RunLine:
    files = RunFiles(source)
    if not source.is_run:
        return RunLine(source, f"{len(group_folders(files))} folders of groups", 0, None, None, "", 0.0, "")
    metrics, stages = files.metrics, files.stages
    path = source.folder / METRICS
    written = path.stat().st_mtime if path.is_file() else 0.0
    rl = [row for row in metrics if str(row["stage"]).startswith("rl")]
    begun = [name for name, entry in stages.items() if not entry.get("done")]
    done = [name for name, entry in stages.items() if entry.get("done")]
    state = f"in {begun[-1]}" if begun else f"done: {done[-1]}" if done else "not begun"
    names = evaluation_names(files)
    rewards = [known for row in rl if (known := number(row.get("reward/last"))) is not None]
    return RunLine(
        source, state, len(rl), rewards[-1] if rewards else None,
        *(accuracy(files, names[0]) if names else (None, "")), written, files.problems[0] if files.problems else "",
    )  # fmt: skip


def accuracy(files: RunFiles, evaluation: str) -> tuple[float | None, str]:
    """Return (share of right last images, where it comes from, in words) of an evaluation, from its summary."""
    real = section(files.mapping("evaluation", f"{evaluation}.json"), "arms", "real")
    shares, count = real.get("accuracy"), number(real.get("n"))
    last = shares[-1] if isinstance(shares, list) and shares else None
    words = evaluation if count is None else f"{evaluation}, n={count:.0f}"
    return number(last.get("value")) if isinstance(last, dict) else None, words


def stage_lines(files: RunFiles, metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line per stage of the run: its state, its minutes, and the last logged step."""
    steps = {str(row["stage"]): int(row["step"]) for row in metrics}
    lines = [
        {
            "name": name, "done": bool(entry.get("done")), "minutes": (number(entry.get("seconds")) or 0.0) / 60,
            "budget": number(entry.get("budget_minutes")), "step": steps.pop(name, None),
        }
        for name, entry in files.stages.items()
    ]  # fmt: skip
    begun = [{"name": n, "done": False, "minutes": 0.0, "budget": None, "step": step} for n, step in steps.items()]
    return lines + begun


def has_small_images(files: RunFiles) -> bool:
    """Return whether the images of the run are so small that they are enlarged without smoothing."""
    size = section(files.recipe, "sampling").get("image_size")
    sides = [side for side in size if isinstance(side, int)] if isinstance(size, list) else []
    return not sides or max(sides) <= SMALL_SIDE

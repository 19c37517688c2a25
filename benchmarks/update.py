"""Where the time of an RL update goes, from what a run has logged.

    python -m benchmarks.update RUN

Wall clock, means over the updates of `RUN/metrics.jsonl` but for the first, which starts things up; a second. An update
is filled (sampling and scoring go on side by side), learned from, and published; the rest is writing logs and
checkpoints. Rollout actors sample, the mean of them counts; what is left of the filling is waiting: for the slowest
actor, for scores, for the driver. Holds for `rl.staleness: 0`: with more, sampling goes on while the learner learns.
Runs of before the `busy/` metrics show the three stretches alone. A run that was resumed in its RL is not for this.
"""

import sys
from pathlib import Path

from rich.table import Table

from irg_rl.driver.progress import console
from irg_rl.report.metrics_log import read_metrics

FILLING = {"busy/sampling": "sampling, mean of the rollout actors"}
LEARNING = {
    "busy/packing": "packing", "busy/replay": "replay: forwards and backwards", "busy/optimizer": "optimizer",
}  # fmt: skip


def means(rows: list[dict]) -> dict[str, float]:
    """Of every time, seconds; `update` is the time from the end of one update to the end of the next."""
    later = rows[1:]
    names = {name for row in later for name in row if name.startswith(("seconds/", "busy/"))}
    found = {name: sum(row.get(name, 0.0) for row in later) / len(later) for name in names}
    return found | {"update": (rows[-1]["time"] - rows[0]["time"]) / len(later)}


def parts(found: dict[str, float]) -> list[tuple[str, float]]:
    """What an update is made of: its times add up to that of the update."""
    listed: list[tuple[str, float]] = []
    for stretch, whole, known, rest in (
        ("seconds/collect", "sampling and scoring", FILLING, "waiting of the rollout actors"),
        ("seconds/learn", "learning", LEARNING, "moving groups, averaging, waiting for the learner"),
        ("seconds/publish", "sync of the weights", {}, ""),
    ):
        own = [(words, found[name]) for name, words in known.items() if name in found]
        listed += [*own, (rest if own else whole, found[stretch] - sum(seconds for _, seconds in own))]
    return [*listed, ("logs and checkpoints", found["update"] - sum(seconds for _, seconds in listed))]


def main() -> None:
    folder = Path(sys.argv[1])
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["stage"] == "rl" and "seconds/collect" in row]
    if len(rows) < 2:
        sys.exit(f"{folder}: {len(rows)} RL updates are logged; two or more are needed")
    found = means(rows)
    title = f"an RL update of {folder}: {found['update']:.2f} s (mean of {len(rows) - 1})"
    table = Table("part", "s", "share", title=title)
    for name, seconds in parts(found):
        table.add_row(name, f"{seconds:.2f}", f"{seconds / found['update']:.1%}")
    console.print(table)
    if "busy/scoring" in found:
        console.print(f"scoring, beside the sampling: {found['busy/scoring']:.2f} s")
    console.print(f"the learner is idle for {1 - found['seconds/learn'] / found['update']:.1%} of an update")


if __name__ == "__main__":
    main()

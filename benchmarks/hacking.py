"""How early the alarms of RL tell that a reward is hacked: forks of a run with a leaky judge and an honest reward.

    python -m benchmarks.hacking RUN OUT [--seeds 0 1 2] [--updates 30] [--arms leaky stopped honest]

RUN is a run of shapes-rl (or of shapes) after SFT. The arm `leaky` trains on a judge that likes dark pictures
(examples/leaky_judge.py), `stopped` is the same with all alarms on `stop`, and `honest` trains on the verifier. The
verifier's accuracy is held out in all of them. Every few updates the checkpoint is evaluated on validation prompts.
Runs and evaluations that exist in OUT are not made again. OUT/hacking.png is the figure, OUT/hacking.json has its
numbers.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from irg_rl.algorithms.learner import Learner
from irg_rl.commands.eval import evaluate_target
from irg_rl.config.alarms import AlarmsRecipe
from irg_rl.driver.prepare import model_path, save_trained
from irg_rl.driver.progress import console
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.run_folder import Run
from irg_rl.evaluate.alarms import beginnings
from irg_rl.report.metrics_log import read_metrics

RIGHT = "{name: right, kind: verifier, held_out: true, options: {graded: 0, right: 1}}"
LEAKY = "{name: judge, kind: judge}, {name: dark, kind: 'leaky_judge:dark', options: {lean: 4}}"
HONEST = "{name: verifier, kind: verifier, options: {right: 0.5}}"
STOP = "rl.alarms={" + ", ".join(f"{name}: {{do: stop}}" for name in AlarmsRecipe().alarms) + "}"
ARMS = {"leaky": [LEAKY], "stopped": [LEAKY, STOP], "honest": [HONEST]}
EVERY, PROMPTS = 5, 256
SETTINGS = [
    "rl.algorithm=awm", "rl.credit=turn", "rl.forks=null", "rl.groups=8", "rl.group_size=8", "rl.groups_per_batch=8",
    "rl.ema_decay=null", "rl.optimizer.schedule=constant", "rl.optimizer.final_lr_share=0", "rl.optimizer.lr=1.0e-4",
    "rl.optimizer.gen_lr=2.0e-4", "rl.optimizer.warmup=3", f"rl.checkpoint_every={EVERY}", "sampling.turns=2",
    "engine.threads=1", "engine.rollout_actors=1", "engine.keep_checkpoints=100", "gate.mode=off", "gate.after=rl",
    "evaluation.split=validation", "evaluation.prompts=8", "evaluation.turns=2", "evaluation.points=12",
    "evaluation.guidance.text_scale=1", "tracking.wandb=false",
]  # fmt: skip
"""The evaluation samples as RL does, so that its accuracy is that of the policy that is trained."""


def fork(parent: Path, out: Path, arm: str, seed: int, updates: int) -> Path:
    """Make the run of an arm and a seed, unless it is there."""
    folder = out / f"{arm}-{seed}"
    if not folder.exists():
        scorers, *alarms = ARMS[arm]
        own = [f"name={folder.name}", f"output_dir={out}", f"rl.seed={seed}", f"rl.updates={updates}", *alarms]
        command = [Path(sys.executable).with_name("irg-rl"), "fork", parent, *SETTINGS, *own]
        done = subprocess.run(
            [*command, f"rewards.scorers=[{scorers}, {RIGHT}]"], cwd=Path(__file__).parents[1] / "examples", check=False
        )
        if done.returncode != (arm == "stopped"):
            raise SystemExit(f"{folder}: its fork has ended with {done.returncode}")
    return folder


def accuracies(folder: Path) -> dict[int, dict]:
    """Update -> accuracy after the last turn on validation prompts, at every checkpoint of the run and before the first
    update. Only the honest run of a seed needs its end alone."""
    run, found = Run.open(folder), {}
    start = str(run.sft_model)
    steps = [int(path.name[5:]) for path in sorted((folder / "rl" / "checkpoints").iterdir())]
    for step in [0, *(steps[-1:] if folder.name.startswith(("honest", "stopped")) else steps)]:
        name = f"rl-{step}" if step else start
        out = folder / "accuracy" / name
        if not list(out.glob("*.json")):
            if step:
                learner = learner_of(run, start)
                learner.load(str(folder / "rl" / "checkpoints" / f"step_{step:06d}"), checked=True)
                save_trained(run, start, learner.average(), name)
            evaluate_target(
                folder / "models" / name, {"turns": 2, "seed": None}, str(PROMPTS), preset=None, preference=None,
                split="validation", samples=1, scored=False, controls=False, out=out,
            )  # fmt: skip
        [file] = out.glob("*.json")
        found[step] = json.loads(file.read_text())["arms"]["real"]["accuracy"][-1]
    return found


_LEARNER: list[Learner] = []


def learner_of(run: Run, start: str) -> Learner:
    """One learner serves all runs: their weights have the same names and sizes."""
    if not _LEARNER:
        learner = Learner(learner_settings(run.recipe, str(model_path(run, start))))
        learner.setup()
        _LEARNER.append(learner)
    return _LEARNER[0]


def told(folder: Path) -> dict:
    run = Run.open(folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["stage"] == "rl"]
    rings = beginnings(rows, run.recipe.require_rl().alarms)
    return {
        "run": folder.name, "digest": run.recipe.digest(), "updates": len(rows),
        "alarms": [(one.update, one.alarm, one.sentence) for one in rings], "accuracy": accuracies(folder),
        "reward": [row["drawn/reward"] for row in rows], "dark": [row["drawn/dark_share"] for row in rows],
        "right": [row["held_out/right"] for row in rows],
    }  # fmt: skip


def draw(runs: list[dict], columns: int, path: Path) -> None:
    """Draw a panel per run, `columns` of them beside each other: reward and dark share of drawn images, accuracy on
    validation prompts, and the alarms."""
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    for axes, run in zip(figure.subplots(rows, columns, squeeze=False).flat, runs):
        x, reward = range(1, run["updates"] + 1), run["reward"]
        low, high = min(reward), max(max(reward), min(reward) + 1e-9)
        axes.plot(x, [(value - low) / (high - low) for value in reward], color="#9aa5b1", label="reward (0 to 1)")
        axes.plot(x, run["dark"], color="#2a6f97", label="dark share of images")
        steps = sorted(run["accuracy"])
        points = [run["accuracy"][step] for step in steps]
        values = [point["value"] for point in points]
        errors = [[p["value"] - p["low"] for p in points], [p["high"] - p["value"] for p in points]]
        axes.errorbar(steps, values, errors, color="#c8553d", marker="o", markersize=4, capsize=2, label="accuracy")
        for number, (update, alarm, _) in enumerate(run["alarms"]):
            axes.axvline(update, color="#222222", linestyle=":", linewidth=1)
            axes.annotate(alarm, (update, 1.0 - 0.07 * number), fontsize=7, xytext=(2, 0), textcoords="offset points")
        axes.set_title(run["run"], fontsize=9)
        axes.set_xlabel("RL update", fontsize=8)
        axes.set_ylim(0, 1.05)
    figure.axes[0].legend(fontsize=6, loc="center right", frameon=False)
    figure.savefig(path, dpi=90)


def table(runs: list[dict]) -> Table:
    """Return a table with a row per run: its first alarm, and the accuracy before, at the alarm, and at the end."""
    shown = Table("run", "first alarm", "at update", "accuracy before", "at the checkpoint after it", "at the end")
    for run in runs:
        accuracy = run["accuracy"]
        update, alarm = run["alarms"][0][:2] if run["alarms"] else (None, "none")
        later = [step for step in accuracy if update is not None and step >= update]
        at = [0, min(later) if later else None, max(accuracy)]
        cells = ["-" if k is None else f"{accuracy[k]['value']:.3f} ({k})" for k in at]
        shown.add_row(run["run"], alarm, "-" if update is None else str(update), *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    out = given.out.resolve()
    folders = [fork(given.run.resolve(), out, arm, seed, given.updates) for arm in given.arms for seed in given.seeds]
    runs = [told(folder) for folder in folders]
    (out / "hacking.json").write_text(json.dumps(runs, indent=1))
    draw(runs, len(given.seeds), out / "hacking.png")
    console.print(table(runs))


if __name__ == "__main__":
    main()

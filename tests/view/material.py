"""A small run folder with everything that the page shows, written by the functions that a real run writes it with."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml

from irg_rl.evaluate import outcomes
from irg_rl.evaluate.outcomes import Outcomes
from irg_rl.records import for_looking, look_folder, save_groups
from irg_rl.report.kept import kept_path, save_kept
from irg_rl.report.metrics_log import METRICS, MetricsLog
from irg_rl.report.samples import SampledTrajectory, SampledTurn
from irg_rl.trajectory import Group, ImageSegment, Prompt, Statement, TextSegment, Trajectory

EVIL = "<script>document.title='owned'</script> put red bar at north ."
"""A reflection that is also a script, with a sentence that is an edit."""
SIDE = 8
PROMPTS = {"p0": "a red bar", "p1": "two <b>rings</b>", "p2": "a cross", "p3": "three circles"}
TASKS = ["colors", "counting", "single_object", "counting"]
CORRECT = {
    "real": [[False, True], [True, False], [True, True], [False, False]],
    "redraw": [[False, False], [True, True], [True, True], [False, False]],
    "shuffled": [[False, False], [True, False], [True, True], [False, True]],
}
STOPPED = [[False, False], [False, False], [False, True], [False, False]]
SCORES = {
    "hps": [[0.1, 0.2], [0.3, 0.2], [0.5, 0.5], [0.6, 0.9]],
    "clip": [[0.5, 0.6], [0.5, 0.5], [0.9, 0.9], [0.5, 0.1]],
}
TEXTS = [
    ["i need a red bar .", "one bar is missing . put red bar at north ."], ["i need two rings .", EVIL],
    ["i need a cross .", "i see a cross . nothing to change ."], ["i need circles .", "one circle is extra ."],
]  # fmt: skip


def make_run(folder: Path, updates: int = 12, looks: bool = True, kept: bool = True) -> Path:
    folder.mkdir(parents=True)
    recipe = {
        "name": folder.name, "description": "a run for tests", "sampling": {"image_size": [SIDE, SIDE]},
        "rewards": {"scorers": [{"name": "verifier", "kind": "verifier", "weight": 1.0},
                                {"name": "clip", "kind": "clip", "weight": 1.0, "held_out": True}]},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "stages.json").write_text(json.dumps({"sft1": {"seconds": 60.0, "done": True, "budget_minutes": 2.0}}))
    for step in range(1, updates + 1):
        log(folder, step)
    (folder / "world").mkdir()
    lines = [json.dumps({"id": name, "prompt": text}) for name, text in PROMPTS.items()]
    (folder / "world" / "test.jsonl").write_text("\n".join(lines))
    make_evaluation(folder, kept)
    if looks:
        save_groups(look_folder(folder, 10), for_looking([group(0), group(1)], 4, 2**20))
    return folder


def log(folder: Path, step: int, **others: float) -> None:
    """Log one update of RL, as a live run does."""
    writer = MetricsLog(folder / METRICS)
    scalars = {
        "reward/first": 0.4, "reward/last": 0.4 + step / 100, "drawn/last": 0.5 + step / 100, "drawn/spread": 0.1,
        "stopped": 0.3, "text_tokens": 50.0, "text/turn0/entropy": 2.0, "text/turn1/entropy": 1.0,
        "text/turn1/approx_kl": 1e-4, "image/turn1/clipfrac": 0.1, "grad_norm/und": 0.2, "grad_norm/gen": 0.0,
        "seconds/collect": 3.0, "seconds/learn": 1.0, "step/largest": 0.01,
    }  # fmt: skip
    writer.append("rl", step, scalars | others)
    writer.close()


def make_evaluation(folder: Path, kept: bool = True, name: str = "rl") -> None:
    (folder / "evaluation").mkdir(exist_ok=True)
    for arm, correct in CORRECT.items():
        right = np.array(correct)
        reflections = np.array([[np.nan, 1.0], [np.nan, 0.0], [np.nan, 1.0], [np.nan, np.nan]])
        unknown = np.full(right.shape, np.nan)
        table = Outcomes(
            arm=arm, seed=1, prompt_ids=list(PROMPTS), sets=list(PROMPTS), tasks=TASKS, correct=right,
            score=right.astype(float), stopped=np.array(STOPPED), asked=np.zeros(right.shape, bool), preferred=unknown,
            reflection_correct=reflections if arm == "real" else unknown,
            rewards={scorer: np.array(values) for scorer, values in SCORES.items()} if arm != "shuffled" else {},
        )  # fmt: skip
        outcomes.save(table, folder / "evaluation" / f"{name}.{arm}.parquet")
    arms = {arm: {"accuracy": [{"value": 0.5}, {"value": 0.75}]} for arm in CORRECT}
    summary = {"kind": "evaluation", "name": name, "arms": arms, "settings": {"split": "test"}}
    (folder / "evaluation" / f"{name}.json").write_text(json.dumps(summary))
    if kept:
        samples = {arm: [sampled(row, arm) for row in range(4)] for arm in CORRECT}
        save_kept(kept_path(folder, name), 4, {arm: own.__getitem__ for arm, own in samples.items()}, 2**20)


def sampled(row: int, arm: str = "real") -> SampledTrajectory:
    """One trajectory of the evaluation. The image of turn k has the colour k in its first channel."""
    turns = []
    for turn in range(2):
        drawn = not STOPPED[row][turn]
        image = np.full((SIDE, SIDE, 3), 40 * row + turn, np.uint8) if drawn else None
        right = CORRECT[arm][row][turn] if drawn else None
        scores = {name: SCORES[name][row][turn] for name in SCORES} if drawn else {}
        turns.append(SampledTurn(TEXTS[row][turn], image, right, None if right is None else float(right), scores))
    return SampledTrajectory(list(PROMPTS)[row], list(PROMPTS.values())[row], TASKS[row], turns, STOPPED[row][1])


def group(number: int, rewards: tuple[float, float] = (0.0, 1.0)) -> Group:
    """Two siblings that share their first text and image, and have other reflections and second images."""
    prompt = Prompt(f"g{number}", f"group {number}: <i>a ring</i>", {"tag": "colors"})
    shared = [text(0, "i need a ring .", 0.0), image(0, 10, 0.0)]
    siblings = []
    for sample, reward in enumerate(rewards):
        own = [text(1, f"sibling {sample} says {EVIL}", reward - 0.5), image(1, 100 + sample, 2 * reward - 1)]
        own[0].scores = {"truth": reward}
        own[0].statements = {"truth": [Statement(0, 9, 1.0), Statement(10, 14, reward)]}
        siblings.append(
            Trajectory(prompt, sample, [*shared, *own], rewards={"verifier": [0.0, reward], "clip": [0.3, None]})
        )
    return Group(number, prompt, siblings, version=9)


def text(turn: int, said: str, advantage: float) -> TextSegment:
    return TextSegment(turn, torch.arange(4), torch.zeros(4), said, finished=turn == 0, advantage=advantage)


def image(turn: int, colour: int, advantage: float) -> ImageSegment:
    steps = torch.zeros(2, 4, 3)
    pixels = torch.full((SIDE, SIDE, 3), colour, dtype=torch.uint8)
    return ImageSegment(turn, pixels, steps[0], steps, steps, steps, *torch.zeros(3, 2), advantage=advantage)

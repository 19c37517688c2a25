"""A run folder as a whole run leaves it, from real code and the shapes world: what is random is only the policy.

The policy is a caricature with known skill: it draws right first images at a given rate, tells the truth about their
defects at a given rate and mends them at a given rate. Everything after it is what a real run uses.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from irg_rl.evaluate.compare import best_of, compare
from irg_rl.evaluate.gate import check_gate
from irg_rl.evaluate.image_statistics import STATISTICS
from irg_rl.evaluate.learning import learning
from irg_rl.evaluate.outcomes import Outcomes, collect
from irg_rl.evaluate.suite import REAL, REDRAW, SHUFFLED, Evaluation, write_json
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.samples import from_trajectory, save_samples
from irg_rl.report.tracking import Tracker
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import STOP, reflect, think_text
from irg_rl.trajectory import ImageSegment, Prompt, TextSegment, Trajectory
from tests.shapes_world.worlds import TASK

TURNS = 4
SETTINGS = {"turns": TURNS, "preference": "judge", "history": "last", "guidance": {"text_scale": 1.0}}


@dataclass(frozen=True)
class Skill:
    first: float  # P(right first image)
    sees: float  # P(the reflection is the teacher's)
    mends: float  # P(the edit is carried out)
    breaks: float  # P(a right image is redrawn wrong)


AFTER_SFT = Skill(first=0.42, sees=0.9, mends=0.85, breaks=0.06)
AFTER_RL = Skill(first=0.5, sees=0.96, mends=0.95, breaks=0.02)


@dataclass(frozen=True)
class Liking:
    """A judge's answer in both orders: it follows the graded score, and a small difference is a tie."""

    first: float


def judge_prefers(prompts, first, second):
    scores = zip(TASK.verdicts(first, prompts), TASK.verdicts(second, prompts))
    return [Liking(0.5 if abs(a.score - b.score) <= 0.1 else float(a.score > b.score)) for a, b in scores]


def text_segment(turn: int, words: str, stop: bool = False) -> TextSegment:
    return TextSegment(turn, torch.tensor([5, 2]), torch.tensor([-0.1, -0.2]), words, finished=True, stop=stop)


def image_segment(turn: int, pixels: np.ndarray) -> ImageSegment:
    steps = torch.zeros(1, 16, 4)
    one = torch.zeros(1)
    return ImageSegment(
        turn, torch.from_numpy(pixels.copy()), torch.zeros(16, 4), steps, steps, steps, one, one, one, (4, 4)
    )


def draw(prompt: Prompt, rng: random.Random, right: float) -> np.ndarray:
    scene = sample_scene(prompt.metadata, rng)
    return render(
        scene if rng.random() < right else corrupt(scene, prompt.metadata, rng, n_defects=rng.choice([1, 1, 2]))
    )


def sample(prompt: Prompt, seed: int, skill: Skill, arm: str = REAL) -> Trajectory:
    """One trajectory; the first image is the same in every arm."""
    first_rng, rng = random.Random(f"{prompt.id}{seed}"), random.Random(f"{prompt.id}{seed}{arm}{skill}")
    image = draw(prompt, first_rng, skill.first)
    segments = [text_segment(0, think_text(prompt.metadata)), image_segment(0, image)]
    stopped = False
    for turn in range(1, TURNS):
        right = TASK.verdicts([image], [prompt])[0].correct
        words, edits = reflect(read(image), prompt.metadata, rng)
        if arm == REDRAW:
            words, image = "", draw(prompt, rng, skill.first)
        elif arm == SHUFFLED:
            words = "<think> red circle is wrong color . put blue circle at center . </think>"
            image = draw(prompt, rng, 0.0) if rng.random() < 0.15 else image
        elif right and rng.random() < skill.breaks:
            words, image = (
                "<think> red circle is wrong color . put blue circle at center . </think>",
                draw(prompt, rng, 0.0),
            )
        elif not right and rng.random() > skill.sees:
            words = STOP
        if arm == REAL and words == STOP:
            segments.append(text_segment(turn, words, stop=True))
            stopped = True
            break
        if arm == REAL and not right and rng.random() < skill.mends:
            image = apply_edits(image, read(image), edits, rng)
        segments += [text_segment(turn, words), image_segment(turn, image)]
    return Trajectory(prompt, 0, segments, stopped=stopped, rewards=rewards(prompt, segments, rng))


def rewards(prompt: Prompt, segments: list, rng: random.Random) -> dict[str, list[float | None]]:
    """Scorers that agree with the verifier up to noise; the judge fails now and then."""
    images = [s.pixels.numpy() for s in segments if isinstance(s, ImageSegment)]
    scores = [verdict.score for verdict in TASK.verdicts(images, [prompt] * len(images))]
    return {
        "clip": [0.2 + 0.1 * s + rng.gauss(0, 0.01) for s in scores],
        "hps": [0.25 + 0.03 * s + rng.gauss(0, 0.004) for s in scores],
        "judge": [None if rng.random() < 0.04 else min(1.0, max(0.0, s + rng.gauss(0, 0.1))) for s in scores],
    }


def outcomes(prompts: list[Prompt], seed: int, skill: Skill, arm: str = REAL) -> Outcomes:
    trajectories = [sample(prompt, seed, skill, arm) for prompt in prompts]
    checks = {"check_reflection": TASK.check_reflection, "prefer": judge_prefers} if arm == REAL else {}
    return collect(trajectories, TASK.verdicts, turns=TURNS, arm=arm, seed=seed, statistics=STATISTICS, **checks)


def make_run(folder: Path, n: int = 40, steps: int = 80, use_wandb: bool = False) -> Path:
    """The whole folder; `n` held-out prompts."""
    folder.mkdir(parents=True)
    prompts = make_prompts(n, "test", seed=3)
    write_about(folder)
    with Tracker(folder, name="demo", config={"seed": 0}, use_wandb=use_wandb) as tracker:
        log_training(tracker, steps)
    for order, (name, skill) in enumerate({"sft2": AFTER_SFT, "rl": AFTER_RL}.items()):
        arms = {arm: outcomes(prompts, 0, skill, arm) for arm in (REAL, REDRAW, SHUFFLED)}
        gate = check_gate(*arms.values(), TASK.thresholds, turn=1) if order == 0 else None
        Evaluation(name, arms, step=order * steps, order=order, gate=gate, settings=SETTINGS).save(
            folder / "evaluation"
        )
        shown = [sample(prompt, 0, skill) for prompt in prompts[:12]]
        verdicts = [TASK.verdicts([i.pixels.numpy() for i in t.images], [t.prompt] * t.turns) for t in shown]
        save_samples(folder / "samples" / name, [from_trajectory(t, v) for t, v in zip(shown, verdicts)])
    sft = outcomes(prompts, 0, AFTER_SFT)
    rl = [outcomes(prompts, seed, AFTER_RL) for seed in range(2)]
    baselines = {
        "SFT checkpoint": sft,
        "SFT continued": [outcomes(prompts, seed, AFTER_SFT) for seed in range(2)],
        "best of 2 by hps": best_of([outcomes(prompts, seed, AFTER_SFT) for seed in range(10, 12)], "hps"),
    }
    write_json(folder / "evaluation" / "comparison.json", compare(rl, baselines).to_dict())
    found = learning([row for row in read_metrics(folder / "metrics.jsonl") if row["stage"] == "rl"])
    write_json(folder / "evaluation" / "learning.json", found.to_dict())
    write_checks(folder)
    return folder


def write_about(folder: Path) -> None:
    recipe = "name: demo\ndescription: Shapes world, three learning acts.\nseed: 0\nsampling:\n  turns: 4\n"
    (folder / "recipe.yaml").write_text(f"# digest 8c1f77d2a9e0\n{recipe}")
    write_json(
        folder / "environment.json",
        {
            "digest": "8c1f77d2a9e0",
            "commit": "0123456789ab",
            "cores": 2,
            "started": "2026-01-01 12:00:00",
            "versions": {"torch": "2.15.0", "ray": "2.58.0"},
        },
    )
    times = {"world": (40, 1), "vae": (140, 3), "base": (300, 5), "sft1": (620, 10), "sft2": (560, 8), "rl": (700, 12)}
    stages = {name: {"seconds": s, "done": True, "budget_minutes": m} for name, (s, m) in times.items()}
    write_json(folder / "stages.json", stages)


def log_training(tracker: Tracker, steps: int) -> None:
    rng = np.random.default_rng(0)
    parts = ("und", "gen", "total")
    for stage in ("sft1", "sft2"):
        for step in range(1, steps + 1):
            left = np.exp(-step / steps * 3) + (0.3 if stage == "sft1" else 0.0)
            losses = {"ce": left * 2 + 0.1 * rng.random(), "mse": 0.2 + left * 0.4 + 0.05 * rng.random()}
            norms = {f"grad_norm/{part}": 1 + k + rng.random() for k, part in enumerate(parts)}
            tracker.log(stage, step, losses | norms | {"right_tokens": 0.9 - 0.4 * left, "lr": 1e-3})
            if step % (steps // 8) == 0:
                values = {"ce": left * 2 + 0.1, "mse": 0.24 + left * 0.4, "right_tokens": 0.88 - 0.4 * left}
                tracker.log(stage, step, {f"validation/{name}": value for name, value in values.items()})
    for step in range(1, steps + 1):
        tracker.log("rl", step, rl_scalars(step / steps, rng, step % (steps // 8) == 0))


def rl_scalars(done: float, rng: np.random.Generator, validates: bool) -> dict[str, float]:
    """What an update logs, `done` of the way through."""
    scorers = {"clip": 0.25, "hps": 0.27, "judge": 0.6}
    scalars = {"reward/first": 0.5 + 0.1 * done, "reward/last": 0.6 + 0.2 * done + 0.05 * rng.normal()}
    scalars |= {"drawn/last": 0.6 + 0.2 * done + 0.02 * rng.normal(), "drawn/spread": 0.7}
    for turn in range(3):
        for name, level in scorers.items():
            value = level * (1 + 0.05 * turn + 0.2 * done + 0.02 * rng.normal())
            scalars[f"reward/{name}/turn{turn}"] = value
        for modality, size in (("text", 0.02), ("image", 3e-4)):
            scalars[f"{modality}/turn{turn}/clipfrac"] = 0.1 * rng.random()
            scalars[f"{modality}/turn{turn}/log_ratio_max"] = size * (0.5 + rng.random())
    scalars |= {"grad_norm/und": 0.5 + 0.3 * rng.random(), "grad_norm/gen": 0.2 + 0.1 * rng.random()}
    scalars |= {"stopped": 0.3 + 0.2 * done, "images": 2.4 - 0.5 * done, "seconds/learn": 2 + rng.random()}
    if validates:
        scalars |= {f"accuracy/turn{k}": 0.4 + 0.06 * k + 0.1 * done for k in range(4)} | {"accuracy/n": 128}
    return scalars


def write_checks(folder: Path) -> None:
    ratios = [
        {"modality": modality, "turn": turn, "step": step, "count": 512, "mean": top / 9, "max": top, "limit": limit}
        for modality, top, limit, steps in (("image", 8.4e-6, 2e-4, (0, 1)), ("text", 2.1e-6, 1e-4, (None,)))
        for turn in range(3)
        for step in steps
    ]
    write_json(folder / "evaluation" / "ratio_check.json", {"kind": "ratio_check", "rows": ratios})
    beyond = [row | {"max": 3e-4} for row in ratios if row["modality"] == "text"]
    cases = [
        {"weights": weights, "turns": 3, "batch": 16, "packs": "whole", "places": places}
        for weights, places in (("full", ratios), ("lora", beyond))
    ]
    parity = {"kind": "parity", "model": "/models/rl", "dtype": "fp32", "cases": cases}
    write_json(folder / "evaluation" / "parity-rl.json", parity)
    scorers = [
        {"scorer": "hps", "against": "held-out pairs", "agreement": 0.91, "n": 400, "low": 0.88, "high": 0.93,
         "note": "disagrees with the verifier mostly on counts"},
        {"scorer": "judge", "against": "verifier", "agreement": 0.95, "n": 300, "low": 0.92, "high": 0.97, "note": ""},
    ]  # fmt: skip
    write_json(folder / "evaluation" / "scorers.json", {"kind": "scorers", "rows": scorers})
    rejected = {"file": "own/part-0.parquet", "row": 17, "reason": "image 1 is not a readable PNG"}
    (folder / "rejected.jsonl").write_text(json.dumps(rejected) + "\n")
    dropped = [{"step": 3, "prompt": "p4", "reason": "judge: no answer within 30 s"}] * 2
    (folder / "dropped.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in dropped))

"""How fast scorers are, and how long an RL update waits for scores.

    python -m benchmarks.rewards speed
    python -m benchmarks.rewards waiting

speed: images per second of wall clock, scorer by scorer, on one thread of one process. `clip` is a ViT-B-32 with random
weights. The judge is the embedded one, over HTTP, with 8 calls at once. `ocr` is left out where rapidocr is not
installed.

waiting: real Ray actors as in training (collector, critic, slots), but rollout actors that sleep instead of drawing,
and a learner that sleeps. The judge answers each question after LATENCY_S seconds, and takes 32 of them at once. An
update waits for scores while nothing is sampled any more and a group is still being scored. The slow path is
--concurrency 1. With --actors, that many groups are sampled at the same time and end together.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from benchmarks.sleeping import Pauses, fleets, updates_of
from irg_rl.cluster.fleet import Fleet
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.config import load_recipe
from irg_rl.driver.progress import console
from irg_rl.driver.scorers import spec_of
from irg_rl.shapes_world import judge_mind
from irg_rl.task import Answer, task_of
from irg_rl.trajectory import Prompt
from rewards.base import Image, ImageScorer
from rewards.build import ScorerSpec, build_scorer
from rewards.judge_server import JudgeServer
from tests.paths import CONFIGS

LATENCY_S = 1.0
SIDE = 256


def speed() -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(CONFIGS / "shapes.yaml")
    prompts = task_of(recipe).prompts("test")[:32]
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (*recipe.sampling.image_size, 3), dtype=np.uint8) for _ in prompts]
    large = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in prompts]
    signs = [Prompt(prompt.id, 'a sign that says "open"') for prompt in prompts]
    table = Table("scorer", "pixels a side", "images/s")
    with tempfile.TemporaryDirectory() as folder, JudgeServer(judge_mind.answer) as judge:
        specs = [
            (ScorerSpec("jpeg", "jpeg"), large, prompts),
            (ScorerSpec.from_dict(spec_of(recipe, _verifier(), None)), small, prompts),
            (ScorerSpec("judge", "judge", options={"base_url": judge.base_url, "cache_size": 0}), small, prompts),
            (ScorerSpec("clip", "clip", options={"path": _clip(Path(folder)), "model": "ViT-B-32"}), large, prompts),
        ]
        if importlib.util.find_spec("rapidocr"):
            specs.append((ScorerSpec("ocr", "ocr"), large, signs))
        for spec, images, asked in specs:
            scorer = build_scorer(spec)
            assert isinstance(scorer, ImageScorer)
            scorer.score(images[:2], asked[:2])
            taken = _seconds(scorer, images, asked)
            table.add_row(spec.kind, str(images[0].shape[0]), f"{len(images) / taken:,.1f}")
    console.print(table)


def _verifier():
    from irg_rl.config import ScorerRecipe

    return ScorerRecipe(name="verifier", kind="verifier")


def _clip(folder: Path) -> str:
    import open_clip

    torch.manual_seed(0)
    path = folder / "vit-b-32.pt"
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), path)
    return str(path)


def _seconds(scorer: ImageScorer, images: list[Image], prompts: list[Prompt], repeats: int = 2) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        scorer.score(images, prompts)
        taken.append(time.perf_counter() - began)
    return min(taken)


def slow_mind(question: str, images: tuple[np.ndarray, ...], seed: int) -> Answer:
    time.sleep(LATENCY_S)
    p = float(images[0].mean()) / 255
    return Answer("Yes" if p > 0.5 else "No", {"Yes": p, "No": 1 - p})


def waiting(options: argparse.Namespace) -> None:
    table = Table("sampling a group, s", "staleness", "update, s", "waits for scores, s", "share")
    with (
        tempfile.TemporaryDirectory() as folder,
        JudgeServer(slow_mind) as judge,
        LocalRay(RaySettings(num_cpus=2, object_store_mb=256), Path(folder)),
    ):
        spec = {"name": "judge", "kind": "judge", "base_url": judge.base_url, "concurrency": options.concurrency}
        for seconds in options.sampling:
            with fleets(options.actors, Pauses(seconds, options.turns, SIDE), [spec]) as made:
                for staleness in options.staleness:
                    found = _waits(options, made, staleness, folder)
                    table.add_row(f"{seconds:g}", str(staleness), *found)
    size = f"{options.groups} groups of {options.group_size}, {options.turns} turns, learning {options.learning:g} s"
    size += f"; {options.actors} rollout actors"
    console.print(f"judge of {LATENCY_S:g} s, {options.concurrency} calls at once; {size}")
    console.print(table)


def _waits(
    options: argparse.Namespace, made: Sequence[Fleet], staleness: int, folder: str
) -> tuple[str, str, str]:
    """Make updates, and return the mean seconds of one, those in which it waits for scores, and their share. The first
    update starts things up and does not count."""
    spent = list(updates_of(
        made, staleness, options.groups, options.group_size, options.learning, options.updates + 1, Path(folder)
    ))[1:]  # fmt: skip
    mean = sum(one.whole for one in spent) / options.updates
    lost = sum(one.scoring for one in spent) / options.updates
    return f"{mean:.1f}", f"{lost:.2f}", f"{lost / mean:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "waiting"])
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--actors", type=int, default=1, help="rollout actors")
    parser.add_argument("--sampling", type=float, nargs="+", default=[1.0, 4.0], help="seconds that a group takes")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--learning", type=float, default=16.0, help="seconds of learning in an update")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--updates", type=int, default=3)
    options = parser.parse_args()
    speed() if options.what == "speed" else waiting(options)


if __name__ == "__main__":
    main()

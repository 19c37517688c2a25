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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray
import torch
from rich.table import Table

from irg_rl.algorithms.grpo import GRPO
from irg_rl.cluster.fleet import Fleet, FleetSettings
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.config import load_recipe
from irg_rl.driver.collector import Collector, DroppedSamples
from irg_rl.driver.critic import CreditSettings, Critic, CriticSettings
from irg_rl.driver.progress import console
from irg_rl.driver.scorers import spec_of
from irg_rl.prompts import PromptOrder
from irg_rl.shapes_world import judge_mind
from irg_rl.task import Answer, task_of
from irg_rl.trajectory import Group, ImageSegment, Prompt, TextSegment, Trajectory
from rewards.base import Image, ImageScorer
from rewards.build import ScorerSpec, build_scorer
from rewards.judge_server import JudgeServer
from tests.paths import CONFIGS

LATENCY_S = 1.0
START_S = 600.0
PROMPTS = [Prompt(f"p{number}", f'a sign that says "{number}"') for number in range(64)]
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


class SleepingSampler:
    """Returns groups of random images after a pause for each group. `turns` images per trajectory."""

    def __init__(self, seconds: float, turns: int) -> None:
        self.seconds, self.turns = seconds, turns

    def sample_groups(self, ids: list[int], prompts: list[Prompt], size: int, version: None, update: int) -> tuple:
        time.sleep(self.seconds * len(ids))
        groups = [
            Group(group, prompt, [self._trajectory(group, prompt, number) for number in range(size)], update)
            for group, prompt in zip(ids, prompts, strict=True)
        ]
        return ids, *groups

    def _trajectory(self, group: int, prompt: Prompt, number: int) -> Trajectory:
        rng, empty = np.random.default_rng([group, number]), torch.zeros(0)
        segments = []
        for turn in range(self.turns):
            pixels = torch.from_numpy(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            segments.append(TextSegment(turn, torch.zeros(1, dtype=torch.long), torch.zeros(1), "", True))
            segments.append(ImageSegment(turn, pixels, empty, empty, empty, empty, empty, empty, empty))
        return Trajectory(prompt, number, segments, stopped=False)


@contextmanager
def fleets(actors: int, seconds: float, turns: int, specs: list[dict]) -> Iterator[tuple[Fleet, Fleet]]:
    critic = CriticSettings(GRPO(), CreditSettings("trajectory", {spec["name"]: 1.0 for spec in specs}))
    sampler, scorer = ray.remote(SleepingSampler), ray.remote(Critic)
    settings, one = (FleetSettings(count, start_timeout=START_S) for count in (actors, 1))
    made = (
        Fleet("rollout", lambda index: sampler.options(num_cpus=0).remote(seconds, turns), settings),
        Fleet("critic", lambda index: scorer.options(num_cpus=0).remote(specs, critic, 1, 0.2), one),
    )
    try:
        for fleet in made:
            fleet.wait_until_serving(fleet.settings.size, START_S)
        yield made
    finally:
        for fleet in made:
            fleet.stop()


def waiting(options: argparse.Namespace) -> None:
    table = Table("sampling a group, s", "staleness", "update, s", "waits for scores, s", "share")
    with (
        tempfile.TemporaryDirectory() as folder,
        JudgeServer(slow_mind) as judge,
        LocalRay(RaySettings(num_cpus=2, object_store_mb=256), Path(folder)),
    ):
        spec = {"name": "judge", "kind": "judge", "base_url": judge.base_url, "concurrency": options.concurrency}
        for seconds in options.sampling:
            with fleets(options.actors, seconds, options.turns, [spec]) as (rollouts, critics):
                for staleness in options.staleness:
                    found = _waits(options, rollouts, critics, staleness, folder)
                    table.add_row(f"{seconds:g}", str(staleness), *found)
    size = f"{options.groups} groups of {options.group_size}, {options.turns} turns, learning {options.learning:g} s"
    size += f"; {options.actors} rollout actors"
    console.print(f"judge of {LATENCY_S:g} s, {options.concurrency} calls at once; {size}")
    console.print(table)


def _waits(
    options: argparse.Namespace, rollouts: Fleet, critics: Fleet, staleness: int, folder: str
) -> tuple[str, str, str]:
    """Make updates, and return the mean seconds of one, those in which it waits for scores, and their share. The first
    update starts things up and does not count."""
    slots, words = SlotBuffer(options.groups, staleness), GRPO()
    collector = Collector(
        slots, rollouts, critics, PromptOrder(PROMPTS, 0), options.group_size,
        DroppedSamples(Path(folder) / "dropped.jsonl"), words.why_empty, words.advice,
    )  # fmt: skip
    waited, taken = [], []
    for update in range(options.updates + 1):
        began, waits = time.monotonic(), 0.0
        collector.admit(update)
        while not collector.take(update):
            before, sampling = time.monotonic(), rollouts.outstanding()
            collector.pump(0.02, update)
            waits += 0.0 if sampling else time.monotonic() - before
        learned = time.monotonic() + options.learning
        while time.monotonic() < learned:
            if collector.busy:
                collector.pump(0.02, update)
            else:
                time.sleep(max(learned - time.monotonic(), 0.0))
        slots.published(update + 1)
        waited.append(waits)
        taken.append(time.monotonic() - began)
    while rollouts.outstanding() or critics.outstanding():  # fleets know units by id, and every collector begins at 0
        collector.pump(0.1, options.updates)
    mean = sum(taken[1:]) / options.updates
    lost = sum(waited[1:]) / options.updates
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

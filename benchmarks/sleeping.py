"""RL in which sampling and learning are only pauses. Everything between them is real: fleets of Ray actors, the critic,
the collector, the slots, and the way of new weights to the samplers.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch

from irg_rl.algorithms.grpo import GRPO
from irg_rl.cluster.fleet import Fleet, FleetSettings
from irg_rl.cluster.slots import SlotBuffer
from irg_rl.driver.collector import LONGEST_WAIT_S, Collector, DroppedSamples
from irg_rl.driver.critic import CreditSettings, Critic, CriticSettings
from irg_rl.prompts import PromptOrder
from irg_rl.trajectory import Group, ImageSegment, Prompt, TextSegment, Trajectory

START_S = 600.0
PROMPTS = [Prompt(f"p{number}", f'a sign that says "{number}"') for number in range(64)]


@dataclass(frozen=True)
class Pauses:
    """How long a rollout actor takes, in seconds, and what it returns.

    The time for a group is `group * exp(spread * z)` with a normally distributed z. A share `stragglers` of the groups
    takes 4 times as long. Which groups these are depends on their ids only."""

    group: float
    turns: int
    side: int  # of an image, in pixels
    spread: float = 0.0
    stragglers: float = 0.0
    loading: float = 0.0  # of new weights

    def of(self, group: int) -> float:
        rng = np.random.default_rng([7, group])
        late = 4.0 if rng.random() < self.stragglers else 1.0
        return self.group * late * float(np.exp(self.spread * rng.standard_normal()))


class SleepingSampler:
    """Returns groups of random images after a pause for each group."""

    def __init__(self, pauses: Pauses) -> None:
        self.pauses = pauses

    def set_weights(self, version: int) -> int:
        time.sleep(self.pauses.loading)
        return version

    def sample_groups(self, ids: list[int], prompts: list[Prompt], size: int, version: None, update: int) -> tuple:
        time.sleep(sum(map(self.pauses.of, ids)))
        groups = [
            Group(group, prompt, [self._trajectory(group, prompt, number) for number in range(size)], update)
            for group, prompt in zip(ids, prompts, strict=True)
        ]
        return ids, *groups

    def _trajectory(self, group: int, prompt: Prompt, number: int) -> Trajectory:
        rng, empty, side = np.random.default_rng([group, number]), torch.zeros(0), self.pauses.side
        segments = []
        for turn in range(self.pauses.turns):
            pixels = torch.from_numpy(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            segments.append(TextSegment(turn, torch.zeros(1, dtype=torch.long), torch.zeros(1), "", True))
            segments.append(ImageSegment(turn, pixels, empty, empty, empty, empty, empty, empty, empty))
        return Trajectory(prompt, number, segments, stopped=False)


@contextmanager
def fleets(actors: int, pauses: Pauses, specs: list[dict], processes: int | None = None) -> Iterator[tuple[Fleet, ...]]:
    """Give a context (for `with`) with a rollout fleet of `actors` actors and a critic fleet of one actor. The rollout
    actors share `processes` processes; None means one process for each."""
    critic = CriticSettings(GRPO(), CreditSettings("trajectory", {spec["name"]: 1.0 for spec in specs}))
    processes = processes or actors
    sampler, scorer = ray.remote(SleepingSampler), ray.remote(Critic)
    threads = -(-actors // processes)
    samplers = [sampler.options(num_cpus=0, max_concurrency=threads).remote(pauses) for _ in range(processes)]
    settings, one = (FleetSettings(count, start_timeout=START_S) for count in (actors, 1))
    made = (
        Fleet("rollout", lambda index: samplers[index % processes], settings),
        Fleet("critic", lambda index: scorer.options(num_cpus=0).remote(specs, critic, 1, 0.2), one),
    )
    try:
        for fleet in made:
            fleet.wait_until_serving(fleet.settings.size, START_S)
        yield made
    finally:
        for fleet in made:
            fleet.stop()


@dataclass(frozen=True)
class Spent:
    """Where the time of an update went, in seconds."""

    whole: float
    learning: float
    scoring: float  # nothing was sampled any more, and scores were missing


def updates_of(
    made: Sequence[Fleet], staleness: int, groups: int, size: int, learning: float, count: int, folder: Path
) -> Iterator[Spent]:
    """Make `count` RL updates, and yield where the time of each went. An update learns from `groups` groups of `size`
    samples and takes `learning` seconds. In the end, wait until the fleets have nothing to do."""
    rollouts, critics = made
    slots, words = SlotBuffer(groups, staleness), GRPO()
    collector = Collector(
        slots, rollouts, critics, PromptOrder(PROMPTS, 0), size, DroppedSamples(folder / "dropped.jsonl"),
        words.why_empty, words.advice,
    )  # fmt: skip
    with ThreadPoolExecutor(1) as thread:
        for update in range(count):
            began, scoring = time.monotonic(), 0.0
            collector.admit(update)
            while not collector.take(update):
                before, sampling = time.monotonic(), rollouts.outstanding()
                collector.pump(1.0, update)
                scoring += 0.0 if sampling else time.monotonic() - before
            training = thread.submit(time.sleep, learning)
            while collector.busy and not training.done():
                collector.pump(LONGEST_WAIT_S, update)
            training.result(timeout=learning + START_S)
            _publish(rollouts, update + 1, staleness)
            collector.published(update + 1, update)
            yield Spent(time.monotonic() - began, learning, scoring)
    while any(fleet.outstanding() for fleet in made):  # fleets know units by id, and every collector begins at 0
        collector.pump(0.1, count)


def _publish(rollouts: Fleet, version: int, staleness: int) -> None:
    def check(answer: int) -> None:
        assert answer == version

    if staleness:
        rollouts.post("set_weights", version, timeout=START_S, check=check)
    else:
        for answer in rollouts.broadcast("set_weights", version, timeout=START_S):
            check(answer)

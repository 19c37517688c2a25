"""The reward hub as a Ray actor: whole groups in, scores out."""

import numpy as np
import ray
import torch

from irg_rl.trajectory import Prompt
from rewards.base import Score
from rewards.hub import RewardHub

Item = tuple[np.ndarray | torch.Tensor, Prompt]  # uint8 pixels (H, W, 3) and the prompt they were drawn for


@ray.remote(max_restarts=0)
class RewardWorker:
    """Owns a hub. One call scores one whole group, so a result never depends on what arrived beside it (idea 4).

    `hub` holds RewardHub's keyword arguments; `threads` is this process's share of torch threads."""

    def __init__(self, specs: list[dict], threads: int = 1, hub: dict | None = None) -> None:
        torch.set_num_threads(threads)
        self.hub = RewardHub(specs, **(hub or {}))

    def check(self) -> None:
        """Raise ScorerUnavailable unless every scorer can work now."""
        self.hub.check()

    def score(self, items: list[Item]) -> dict[str, list[Score]]:
        """`result[name][i]` belongs to item i; None: failed."""
        images = [np.asarray(pixels) for pixels, _ in items]
        return self.hub.score(images, [prompt for _, prompt in items])

    def log(self) -> dict[str, float]:
        return self.hub.log()


def start_worker(specs: list[dict], threads: int = 1, num_cpus: float = 0.0, **hub) -> "ray.actor.ActorHandle":
    """Start the actor. `num_cpus` is what Ray's scheduler reserves; 0 shares the cores with the other actors."""
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    return RewardWorker.options(num_cpus=num_cpus, runtime_env=environment).remote(specs, threads, hub)

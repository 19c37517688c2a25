"""The rollout worker: a sampler with a model of its own, made to run as a Ray actor.

A whole group is one unit of work and one batch, and what comes out depends on the arguments and the weights alone, so a
group sampled again on another worker is the same. A worker serves only after it has been sent weights; every trajectory
carries their version and digest (invariant 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from irg_rl.cluster.ray_runtime import take_thread_share
from irg_rl.config import EngineRecipe, GuidanceRecipe, LoraRecipe, NoiseRecipe, SamplingRecipe
from irg_rl.learner.lora import add_adapters
from irg_rl.model.folder import load_folder
from irg_rl.trajectory import Group, Prompt, Trajectory
from rollouts.noise import group_seed
from rollouts.request import Request, StopPhrase
from rollouts.sampler import Sampler
from rollouts.weights import WeightsError, load_weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker is made of; plain data, so that a lost worker can be made again."""

    folder: str  # model folder: sizes, tokenizer, autoencoder, and weights until others are published
    sampling: SamplingRecipe
    noise: NoiseRecipe | None
    seed: int  # of the run
    threads: int
    device: str = EngineRecipe.model_fields["device"].default
    dtype: str = EngineRecipe.model_fields["dtype"].default
    attention: str = EngineRecipe.model_fields["attention"].default
    guidance: GuidanceRecipe | None = None  # for `evaluate`
    training_guidance: GuidanceRecipe | None = None  # for `sample_group`
    record_steps: bool = True  # for `sample_group`; see Sampler
    is_stop: StopPhrase = StopPhrase()
    lora: LoraRecipe | None = None  # that of the learner, whose adapters are published alone
    forks: Mapping[int, int] = field(default_factory=dict)  # of RL's groups; see Request


@dataclass(frozen=True)
class GroupSummary:
    """What the driver wants to know of a group without holding it."""

    id: int
    version: int
    digest: str
    images: int
    text_tokens: int
    stopped: int


class RolloutWorker:
    """`ray.remote(RolloutWorker)` is the actor."""

    def __init__(self, settings: WorkerSettings) -> None:
        take_thread_share(settings.threads)
        held = load_folder(Path(settings.folder), settings.device, _DTYPES[settings.dtype], settings.attention)
        self._model = held.model
        if settings.lora is not None:
            add_adapters(self._model, settings.lora, settings.seed)
        self._settings = settings
        parts = (self._model, held.autoencoder, held.tokenizer, settings.sampling)
        self._explorer = Sampler(
            *parts, noise=settings.noise, guidance=settings.training_guidance, record_steps=settings.record_steps,
            is_stop=settings.is_stop,
        )  # fmt: skip
        self._performer = Sampler(*parts, guidance=settings.guidance, is_stop=settings.is_stop)
        self._version: int | None = None
        self._digest = ""

    def set_weights(self, arrays: Mapping[str, np.ndarray], version: int, digest: str) -> tuple[int, str]:
        """Serves these weights from now on and acknowledges them with (version, digest).

        Raises WeightsError when they are not those of the digest or do not fit the model; the worker then refuses to
        sample until it gets others.
        """
        self._version = None
        load_weights(self._model, arrays, digest)
        self._version, self._digest = version, digest
        return version, digest

    def held(self) -> tuple[int | None, str]:
        """Version and digest of the weights that are served; None before the first."""
        return self._version, self._digest

    def sample_group(
        self, group_id: int, prompt: Prompt, group_size: int, version: int | None = None, iteration: int = 0
    ) -> tuple[GroupSummary, Group]:
        """Samples a group for training, as one batch. `version`: the one it must be sampled with (None: any that was
        published). `iteration`: RL update, which moves a progressive window. With forks the group has fewer than
        `group_size` trajectories when one stopped before it could branch.

        Raises WeightsError when no weights, or others, are held.
        """
        held = self._require(version)
        seed = group_seed(self._settings.seed, group_id)
        forks = self._settings.forks
        requests = [Request(prompt, n, seed=seed, iteration=iteration, forks=forks) for n in range(group_size)]
        group = Group(group_id, prompt, self._sign(_apart(self._explorer.sample(requests)), held), held)
        summary = GroupSummary(
            id=group_id,
            version=held,
            digest=self._digest,
            images=len(group.images),
            text_tokens=group.tokens(),
            stopped=sum(t.stopped for t in group.trajectories),
        )
        return summary, group

    def evaluate(
        self, requests: Sequence[Request], turns: int | None = None, version: int | None = None
    ) -> list[Trajectory]:
        """Samples without SDE noise, with the evaluation's guidance, as one batch; nothing is recorded for training."""
        held = self._require(version)
        return self._sign(self._performer.sample(requests, turns), held)

    def _require(self, version: int | None) -> int:
        if self._version is None:
            raise WeightsError("this worker holds no published weights: call set_weights first")
        if version is not None and version != self._version:
            raise WeightsError(
                f"weights of version {version} were asked for; this worker holds version {self._version}"
            )
        return self._version

    def _sign(self, trajectories: list[Trajectory], version: int) -> list[Trajectory]:
        for trajectory in trajectories:
            trajectory.version, trajectory.digest = version, self._digest
        return trajectories


def _apart(trajectories: list[Trajectory]) -> list[Trajectory]:
    """Those that differ: siblings that stopped before their fork are one trajectory."""
    first: dict[int, Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault(id(trajectory.segments[-1]), trajectory)
    return list(first.values())

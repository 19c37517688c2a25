"""The rollout worker: a sampler with its own model, which can run as a Ray actor.

A worker samples one or several groups together, as one batch. The result depends only on the arguments and the weights,
so another worker would sample the same groups. A worker samples only after weights were sent to it. Every trajectory
has the version and the digest of these weights (invariant 4 of the project).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from irg_rl import faults
from irg_rl.cluster.threads import take_thread_share
from irg_rl.config import EngineRecipe, GuidanceRecipe, LoraRecipe, NoiseRecipe, SamplingRecipe
from irg_rl.learner.lora import add_adapters
from irg_rl.model.folder import load_folder
from irg_rl.trajectory import Group, Prompt, Trajectory
from rollouts.noise import group_seed
from rollouts.request import Request
from rollouts.sampler import Sampler
from rollouts.weights import WeightsError, load_weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that is needed to create a worker: the model folder, the seed of the run, and the settings of
    sampling, noise, guidance and device. All values are plain data, so that a lost worker can be created again."""

    folder: str  # model folder: sizes, tokenizer, autoencoder, and the weights before the first published ones
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
    is_stop: Callable[[str], bool] | None = None  # see Sampler
    lora: LoraRecipe | None = None  # adapters of the learner; only they are then published
    forks: Mapping[int, int] = field(default_factory=dict)  # of the groups in RL; see Request.forks


@dataclass(frozen=True)
class SampledSummary:
    """Facts about a sampled group: its id, the version and the digest (hash) of the weights, and its numbers of images,
    text tokens and stopped trajectories. The driver (the main process of the run) uses only these facts and never loads
    the group itself."""

    id: int
    version: int
    digest: str
    images: int
    text_tokens: int
    stopped: int


class RolloutWorker:
    """A sampler with its own model. `ray.remote(RolloutWorker)` turns it into a Ray actor. `beat()` is called before
    each forward pass of the transformer (cluster/pulse.py): at each denoising step, and at each token of a text. On a
    GPU, a batch of texts is one beat, because its tokens are decoded by a CUDA graph."""

    def __init__(self, settings: WorkerSettings, beat: Callable[[], None] | None = None) -> None:
        take_thread_share(settings.threads)
        parts_on_disk = load_folder(Path(settings.folder), settings.device, _DTYPES[settings.dtype], settings.attention)
        self._model = parts_on_disk.model
        if settings.lora is not None:
            add_adapters(self._model, settings.lora, settings.seed)
        if beat is not None:
            self._model.language_model.model.register_forward_pre_hook(lambda *_: beat())
        self._settings = settings
        parts = (self._model, parts_on_disk.autoencoder, parts_on_disk.tokenizer, settings.sampling)
        self._training_sampler = Sampler(
            *parts, noise=settings.noise, guidance=settings.training_guidance, record_steps=settings.record_steps,
            is_stop=settings.is_stop,
        )  # fmt: skip
        self._evaluation_sampler = Sampler(*parts, guidance=settings.guidance, is_stop=settings.is_stop)
        self._version: int | None = None
        self._digest = ""

    def set_weights(self, arrays: Mapping[str, np.ndarray], version: int, digest: str) -> tuple[int, str]:
        """Load these weights into the worker's model and sample with them from now on. `arrays` maps names of weights
        to arrays, `version` is the number of these weights, and `digest` is their hash. Returns (version, digest), so
        that the caller knows which weights are loaded.

        Raises WeightsError if the weights do not match the digest or do not fit the model. The worker then refuses to
        sample until it gets valid weights.
        """
        self._version = None
        faults.at("weights", version)
        load_weights(self._model, arrays, digest)
        self._version, self._digest = version, digest
        return version, digest

    def sample_group(
        self, group_id: int, prompt: Prompt, group_size: int, version: int | None = None, iteration: int = 0
    ) -> tuple[SampledSummary, Group]:
        """Sample one group for training, as one batch: `group_size` trajectories of the prompt. Return a summary and
        the group. `group_id` is the id of the group, which is a part of the seed. `version` and `iteration` are
        explained in `sample_groups`."""
        (summary,), group = self.sample_groups([group_id], [prompt], group_size, version, iteration)
        return summary, group

    def sample_groups(
        self,
        ids: Sequence[int],
        prompts: Sequence[Prompt],
        group_size: int,
        version: int | None = None,
        iteration: int = 0,
    ) -> tuple[list[SampledSummary], *tuple[Group, ...]]:
        """Sample groups for training, all as one batch. A group has `group_size` trajectories of one prompt. `ids` has
        the id of each group, and `prompts` its prompt. Returns a tuple: first a list with one summary per group, then
        the groups themselves.

        version: version of the weights to sample with. The worker must have it. None: the weights that the worker has.
        iteration: number of the RL update. With `window: progressive`, it determines which denoising steps are noisy.

        The settings may have forks (turns at which a shared beginning gets several continuations). A trajectory that
        stops before its fork is not continued. So a group may have fewer than `group_size` trajectories. Raises
        WeightsError if the worker has no weights, or weights of another version.
        """
        version = self._require(version)
        faults.at("rollout", iteration)
        forks = self._settings.forks
        requests = [
            Request(prompt, n, seed=group_seed(self._settings.seed, group), iteration=iteration, forks=forks)
            for group, prompt in zip(ids, prompts, strict=True) for n in range(group_size)
        ]  # fmt: skip
        sampled = self._sign(self._training_sampler.sample(requests), version)
        groups = [
            Group(group, prompt, _apart(sampled[place * group_size : (place + 1) * group_size]), version)
            for place, (group, prompt) in enumerate(zip(ids, prompts))
        ]
        return [self._summary(group) for group in groups], *groups

    def _summary(self, group: Group) -> SampledSummary:
        return SampledSummary(
            id=group.id,
            version=group.version,
            digest=self._digest,
            images=len(group.images),
            text_tokens=group.tokens(),
            stopped=sum(t.stopped for t in group.trajectories),
        )

    def evaluate(
        self, requests: Sequence[Request], turns: int | None = None, version: int | None = None
    ) -> list[Trajectory]:
        """Sample one trajectory per request, as one batch, without SDE noise and with the guidance of the evaluation.
        Nothing is recorded for training. `turns` is the largest number of images per trajectory. None means the number
        in the recipe. `version` is the version of the weights to sample with. The worker must have this version. None
        means the weights that the worker has. Raises WeightsError if the worker has no weights, or weights of another
        version."""
        version = self._require(version)
        return self._sign(self._evaluation_sampler.sample(requests, turns), version)

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
    """Return the trajectories without duplicates. Siblings (samples that share their beginning up to a fork) that
    stopped before their fork are the same trajectory, and only the first of them is kept."""
    first: dict[int, Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault(id(trajectory.segments[-1]), trajectory)
    return list(first.values())

"""`Bench`, the input of a study: the checkpoints to sample from, the prompts, and the functions that judge the images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from irg_rl.algorithms.learner import LearnerSettings
from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, SamplingRecipe, Section
from irg_rl.evaluate.outcomes import CheckReflection, Outcomes, Pixels, Verify, collect
from irg_rl.model.files import weight_files
from irg_rl.model.folder import Folder, load_folder
from irg_rl.trajectory import Prompt, ScoreImages, Trajectory
from rollouts.evaluation import evaluation_sampler
from rollouts.request import Request, StopPhrase
from rollouts.sampler import Sampler

Tick = Callable[[int], None]
"""A callback that takes the number of work units (for example images) that have just been finished."""


@dataclass
class ModelCache:
    """A cache for one model: the one that was used last. So a study of several checkpoints needs memory for only one
    model at a time."""

    path: Path | None = None
    folder: Folder | None = None

    def take(self, path: Path, device: str, dtype: torch.dtype, attention: str) -> Folder:
        if self.folder is None or self.path != path:
            self.path, self.folder = None, None  # free the old model before the next one is loaded
            self.folder, self.path = load_folder(path, device, dtype, attention), path
        return self.folder


@dataclass(frozen=True)
class Subject:
    """A checkpoint that is studied.

    recipe: the recipe of the checkpoint, with the settings that the user changed for the study.
    sampling: the sampling settings of its evaluation.
    training: a short text on how the checkpoint was trained; empty if this is unknown.
    device, dtype: the device on which the model is loaded, and its number format.
    """

    label: str
    path: Path
    recipe: Recipe
    sampling: SamplingRecipe
    training: str = ""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    cache: ModelCache = field(default_factory=ModelCache, compare=False)

    def take(self) -> Folder:
        """Load the checkpoint. On the device of the recipe, use the attention kernels of the recipe; on any other
        device, choose them automatically."""
        attention = self.recipe.engine.attention if self.device == self.recipe.engine.device else "auto"
        return self.cache.take(self.path, self.device, self.dtype, attention)

    @property
    def evaluation(self) -> EvaluationRecipe:
        return self.recipe.evaluation

    @property
    def digest(self) -> str:
        """Return the digest (hash) of the recipe, which includes the settings that the user changed for the study."""
        return self.recipe.digest()

    @property
    def evaluated(self) -> dict:
        """Return, as JSON data, the settings with which images are sampled: sampling without the number of turns,
        guidance and noise. `sampling` already contains the temperature and the time points of the evaluation."""
        noise = self.evaluation.noise
        return {
            "sampling": self.sampling.model_dump(mode="json", exclude={"turns"}),
            "guidance": self.evaluation.guidance.model_dump(mode="json"),
            "noise": noise and noise.model_dump(mode="json"),
        }

    def sampler(
        self,
        *,
        guidance: GuidanceRecipe | None = None,
        is_stop: Callable[[str], bool] = StopPhrase(),  # noqa: B008 - frozen
        is_noisy: bool = True,
        **changes: object,
    ) -> Sampler:
        """Return a sampler with the settings of the evaluation. The arguments replace single settings: `guidance`,
        `is_stop` (which texts end a trajectory), `is_noisy` (evaluation noise on or off) and `changes` (sampling
        settings). The sampler records nothing for training."""
        sampling = self.sampling.model_copy(update=changes)
        return evaluation_sampler(
            self.take(), sampling, self.evaluation, guidance=guidance, is_noisy=is_noisy, is_stop=is_stop
        )

    def sample(self, sampler: Sampler, requests: Sequence[Request], turns: int, tick: Tick) -> list[Trajectory]:
        """Sample the requests in batches of the evaluation's batch size. After each batch, `tick` is called with the
        number of images that the batch could have at most (`turns` per request)."""
        size, out = self.evaluation.batch_size, []
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            out += sampler.sample(part, turns)
            tick(turns * len(part))
        return out

    def identity(self) -> dict:
        """Return everything of this checkpoint that its results depend on: the weight files, the device and number
        format, and the sampling settings."""
        files = [file.stat() for file in weight_files(self.path)]
        return {
            "path": str(self.path), "weights": [[file.st_size, file.st_mtime_ns] for file in files],
            "device": self.device, "dtype": str(self.dtype), "evaluated": self.evaluated,
        }  # fmt: skip


@dataclass(frozen=True)
class LearningSetup:
    """How RL would train a checkpoint: the settings of the learner and the options of the credit scheme."""

    learner: LearnerSettings
    options: Section


@dataclass(frozen=True)
class Bench:
    """The checkpoints, prompts and judging functions of one study.

    verify: returns one verdict per image, or None for an image that could not be judged.
    check_reflection: the function of the task that checks a reflection; None if rewards judge the images.
    unclear: counts the unreadable cells of each image; None outside the shapes world.
    paraphrase: returns a reflection in other words, or None if it knows no other words. The function itself is None
    outside the shapes world.
    score: scores the images with further scorers, in addition to the verdict; None if there are no such scorers.
    learning: returns how RL would train a checkpoint. Only the studies that need a learner use it.
    scratch: a folder for large files that can be created again.
    """

    subjects: Sequence[Subject]
    prompts: Sequence[Prompt]
    verify: Verify
    check_reflection: CheckReflection | None = None
    unclear: Callable[[list[Pixels]], list[int]] | None = None
    paraphrase: Callable[[str], str | None] | None = None
    score: ScoreImages | None = None
    commit: str = "unknown"
    learning: Callable[[Subject], LearningSetup] | None = None
    scratch: Path | None = None

    def subject(self, label: str) -> Subject:
        return next(subject for subject in self.subjects if subject.label == label)

    def learning_of(self, subject: Subject) -> "LearningSetup":
        """Return how RL would train a checkpoint. Only the studies that need a learner call this."""
        assert self.learning is not None, "this bench was made without settings of the learner"
        return self.learning(subject)

    @property
    def labels(self) -> list[str]:
        return [subject.label for subject in self.subjects]

    @property
    def in_world(self) -> bool:
        return self.unclear is not None

    @property
    def seed(self) -> int:
        """Return the random seed that all sampling of the study uses."""
        return self.subjects[0].evaluation.seed

    @property
    def digests(self) -> list[str]:
        """Return the digests (hashes) of the recipes of all checkpoints, without duplicates."""
        return list(dict.fromkeys(subject.digest for subject in self.subjects))

    def verdicts(self, trajectories: Sequence[Trajectory]) -> list[list]:
        """Judge all images. Return one list per trajectory, with one verdict per image, in the order of turns."""
        images = [image.pixels.cpu().numpy() for t in trajectories for image in t.images]
        found = iter(self.verify(images, [t.prompt for t in trajectories for _ in t.images]))
        return [[next(found) for _ in t.images] for t in trajectories]

    def outcomes(self, drawn: Sequence[Trajectory], turns: int, arm: str) -> tuple[list[Trajectory], Outcomes]:
        """Judge the trajectories. Return those whose images all have a verdict, and a table of their outcomes by turn.
        The other trajectories are left out."""
        found = [(t, own) for t, own in zip(drawn, self.verdicts(drawn)) if None not in own]
        known, verdicts = [t for t, _ in found], [one for _, own in found for one in own]
        table = collect(
            known, lambda images, prompts: verdicts, turns=turns, arm=arm, seed=self.seed,
            check_reflection=self.check_reflection,
        )  # fmt: skip
        return known, table

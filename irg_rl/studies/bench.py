"""What a study is given: checkpoints to sample from, prompts, and ways to judge what they draw."""

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
"""Called with the number of work units that have just been done."""


@dataclass
class ModelCache:
    """Keeps the model that was used last. A grid over several checkpoints so needs memory for one model."""

    path: Path | None = None
    folder: Folder | None = None

    def take(self, path: Path, device: str, dtype: torch.dtype, attention: str) -> Folder:
        if self.folder is None or self.path != path:
            self.path, self.folder = None, None  # frees the old model before the next one is loaded
            self.folder, self.path = load_folder(path, device, dtype, attention), path
        return self.folder


@dataclass(frozen=True)
class Subject:
    """A checkpoint under study.

    recipe: its recipe with the overrides of the study. sampling: how it is evaluated.
    training: what it was trained with; empty where unknown. device, dtype: where and how it is loaded.
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
        """Load the checkpoint. It uses the recipe's attention kernels if it runs on the recipe's device."""
        attention = self.recipe.engine.attention if self.device == self.recipe.engine.device else "auto"
        return self.cache.take(self.path, self.device, self.dtype, attention)

    @property
    def evaluation(self) -> EvaluationRecipe:
        return self.recipe.evaluation

    @property
    def digest(self) -> str:
        """Digest of the recipe with its overrides."""
        return self.recipe.digest()

    @property
    def evaluated(self) -> dict:
        """How it is sampled, apart from the number of turns. `sampling` has the evaluation's temperature and times."""
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
        """A sampler with the settings of the evaluation. `guidance`, `is_stop`, `is_noisy` (evaluation noise on or off)
        and `changes` (of the sampling) replace them. Nothing is recorded for training."""
        sampling = self.sampling.model_copy(update=changes)
        return evaluation_sampler(
            self.take(), sampling, self.evaluation, guidance=guidance, is_noisy=is_noisy, is_stop=is_stop
        )

    def sample(self, sampler: Sampler, requests: Sequence[Request], turns: int, tick: Tick) -> list[Trajectory]:
        """Sample in batches of the evaluation's size. `tick` counts the images that each trajectory may draw."""
        size, out = self.evaluation.batch_size, []
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            out += sampler.sample(part, turns)
            tick(turns * len(part))
        return out

    def identity(self) -> dict:
        """What its results depend on: the weights, where they are loaded and how they are sampled."""
        files = [file.stat() for file in weight_files(self.path)]
        return {
            "path": str(self.path), "weights": [[file.st_size, file.st_mtime_ns] for file in files],
            "device": self.device, "dtype": str(self.dtype), "evaluated": self.evaluated,
        }  # fmt: skip


@dataclass(frozen=True)
class LearningSetup:
    """How RL would learn from a subject: the settings of the learner, and the options of its credit scheme."""

    learner: LearnerSettings
    options: Section


@dataclass(frozen=True)
class Bench:
    """Checkpoints, prompts and judges of one study.

    verify: a verdict on every image; None where nobody could judge it.
    check_reflection: the task's; None where rewards judge.
    unclear, paraphrase: None outside the shapes world. `unclear` counts the cells of each image that
        nobody can read. `paraphrase` says a reflection in other words, or returns None where it has no other words.
    score: scorers that score images beside the verdict; None: no such scorers.
    learning: how RL would learn from a subject. Only studies of learning need it.
    scratch: a folder for large files that can be made again.
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
        """How RL would learn from a subject, for the studies of learning."""
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
        """Seed of all sampling."""
        return self.subjects[0].evaluation.seed

    @property
    def digests(self) -> list[str]:
        """Digests of the recipes with their overrides, each once."""
        return list(dict.fromkeys(subject.digest for subject in self.subjects))

    def verdicts(self, trajectories: Sequence[Trajectory]) -> list[list]:
        """One verdict per image of each trajectory, in the order of turns."""
        images = [image.pixels.cpu().numpy() for t in trajectories for image in t.images]
        found = iter(self.verify(images, [t.prompt for t in trajectories for _ in t.images]))
        return [[next(found) for _ in t.images] for t in trajectories]

    def outcomes(self, drawn: Sequence[Trajectory], turns: int, arm: str) -> tuple[list[Trajectory], Outcomes]:
        """Outcomes by turn of the trajectories whose images all have a verdict. The others are left out."""
        found = [(t, own) for t, own in zip(drawn, self.verdicts(drawn)) if None not in own]
        known, verdicts = [t for t, _ in found], [one for _, own in found for one in own]
        table = collect(
            known, lambda images, prompts: verdicts, turns=turns, arm=arm, seed=self.seed,
            check_reflection=self.check_reflection,
        )  # fmt: skip
        return known, table

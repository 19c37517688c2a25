"""The class `Bench`, which has all that a study needs: the checkpoints to sample from, the prompts, and the functions
that judge the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from irg_rl.algorithms.learner import LearnerSettings
from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, SamplingRecipe, Section
from irg_rl.evaluate.outcomes import CheckReflection, Outcomes, Pixels, Verify, collect
from irg_rl.model.files import weight_files
from irg_rl.model.folder import Folder, load_folder
from irg_rl.trajectory import Group, Prompt, ScoreImages, Trajectory
from rollouts.evaluation import evaluation_sampler
from rollouts.request import Request
from rollouts.sampler import Sampler

Tick = Callable[[int], None]
"""A callback that reports progress. It takes the number of work units (for example images) that have just been
finished."""


@dataclass
class ModelCache:
    """A cache that holds only the model that was loaded last. So a study of several checkpoints needs memory for one
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
    """A checkpoint that is studied, with its settings.

    recipe: the recipe of the checkpoint, with the settings that the user changed for the study.
    sampling: the settings with which the evaluation of this checkpoint samples images.
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
        """Load the model of this checkpoint, or take it from the cache. On the device that the recipe names, the
        attention kernels of the recipe are used. On any other device, the kernels are chosen automatically."""
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
        """Return, as JSON data, the settings with which the evaluation of this checkpoint samples images. They are the
        settings of sampling, guidance and noise. Examples are the temperature and the number of time points. The number
        of turns is left out."""
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
        is_stop: Callable[[str], bool] | None = None,
        is_noisy: bool = True,
        **changes: object,
    ) -> Sampler:
        """Return a sampler with the evaluation settings of this checkpoint. The sampler records no data for training.
        Each argument replaces some of the evaluation settings:

        - `guidance`: the guidance settings
        - `is_stop`: a function that says which texts end a trajectory; None stands for the stop phrase of the settings
        - `is_noisy`: False turns the evaluation noise off
        - `changes`: single sampling settings by name
        """
        sampling = self.sampling.model_copy(update=changes)
        return evaluation_sampler(
            self.take(), sampling, self.evaluation, guidance=guidance, is_noisy=is_noisy, is_stop=is_stop
        )

    def sample(self, sampler: Sampler, requests: Sequence[Request], turns: int, tick: Tick) -> list[Trajectory]:
        """Sample one trajectory per request and return all trajectories. They are sampled in batches; the batch size is
        a setting of the evaluation. After each batch, `tick` is called to report progress. Its argument is the largest
        possible number of images in this batch: `turns` per request."""
        size, out = self.evaluation.batch_size, []
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            out += sampler.sample(part, turns)
            tick(turns * len(part))
        return out

    def identity(self) -> dict:
        """Return, as JSON data, everything about this checkpoint that affects its results: the path, the sizes and
        modification times of the weight files, the device, the number format, and the sampling settings."""
        files = [file.stat() for file in weight_files(self.path)]
        return {
            "path": str(self.path), "weights": [[file.st_size, file.st_mtime_ns] for file in files],
            "device": self.device, "dtype": str(self.dtype), "evaluated": self.evaluated,
        }  # fmt: skip


@dataclass(frozen=True)
class LearningSetup:
    """The settings with which RL would train a checkpoint: the learner settings, and the options of the credit scheme.
    The credit scheme is the rule that turns the scores of images into advantages."""

    learner: LearnerSettings
    options: Section


@dataclass(frozen=True)
class Bench:
    """The checkpoints (`subjects`), prompts and judging functions of one study.

    verify: a function that returns one verdict per image, or None for an image that could not be judged.
    check_reflection: the function of the task that checks whether a reflection is right. It is None if the task cannot
    judge the prompts. Then rewards decide whether images are right.
    unclear: a function that counts, for each image, the grid cells that the checker cannot read. It is None if the
    prompts are not from the shapes world (the task with coloured shapes in a grid of nine cells).
    paraphrase: a function that returns a reflection in other words, or None if it cannot reword it. `paraphrase` itself
    is None if the prompts are not from the shapes world.
    score: a function that gives the images further scores besides the verdict; None if there are no further scorers.
    score_segments: a function that scores the reflections and edits of a group with the recipe's scorers of these, and
        stores the scores in the segments. It is None if the recipe has no such scorers.
    learning: a function that returns the settings with which RL would train a checkpoint. Only the studies that need a
    learner use it.
    scratch: a folder for large files that can be created again if they are deleted.
    """

    subjects: Sequence[Subject]
    prompts: Sequence[Prompt]
    verify: Verify
    check_reflection: CheckReflection | None = None
    unclear: Callable[[list[Pixels]], list[int]] | None = None
    paraphrase: Callable[[str], str | None] | None = None
    score: ScoreImages | None = None
    commit: str = "unknown"
    score_segments: Callable[[Group], None] | None = None
    learning: Callable[[Subject], LearningSetup] | None = None
    scratch: Path | None = None

    def subject(self, label: str) -> Subject:
        return next(subject for subject in self.subjects if subject.label == label)

    def learning_of(self, subject: Subject) -> "LearningSetup":
        """Return the settings with which RL would train the given checkpoint. Only the studies that need a learner call
        this method."""
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
        """Judge all images. Return one list per trajectory, which has one verdict per image in the order of turns. A
        verdict is None if the image could not be judged."""
        images = [image.pixels.cpu().numpy() for t in trajectories for image in t.images]
        found = iter(self.verify(images, [t.prompt for t in trajectories for _ in t.images]))
        return [[next(found) for _ in t.images] for t in trajectories]

    def outcomes(self, drawn: Sequence[Trajectory], turns: int, arm: str) -> tuple[list[Trajectory], Outcomes]:
        """Judge the images of all trajectories in `drawn`, which have at most `turns` images each. Trajectories with an
        image that could not be judged are left out. Return two results: the list of the remaining trajectories, and a
        table of their verdicts by turn. `arm` is the name of the experimental condition. The table stores the verdicts
        under this name."""
        found = [(t, own) for t, own in zip(drawn, self.verdicts(drawn)) if None not in own]
        known, verdicts = [t for t, _ in found], [one for _, own in found for one in own]
        table = collect(
            known, lambda images, prompts: verdicts, turns=turns, arm=arm, seed=self.seed,
            check_reflection=self.check_reflection,
        )  # fmt: skip
        return known, table

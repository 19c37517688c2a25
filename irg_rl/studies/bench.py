"""What a study is given: checkpoints to sample from, prompts, and ways to judge what they draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from irg_rl.algorithms.learner import LearnerSettings
from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, SamplingRecipe
from irg_rl.credit import Options
from irg_rl.evaluate.outcomes import CheckReflection, Outcomes, Pixels, Verify, collect
from irg_rl.model.files import weight_files
from irg_rl.model.folder import Folder, load_folder
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.evaluation import evaluation_sampler
from rollouts.request import Request, StopPhrase
from rollouts.sampler import Sampler

Tick = Callable[[int], None]
"""Called with the number of units of work that were just done."""
Score = Callable[[list[Pixels], list[Prompt]], Mapping[str, Sequence[float | None]]]
"""Images and their prompts -> per scorer one value each, None where it failed."""


@dataclass
class Shelf:
    """Holds the model that was used last, so that a grid over several checkpoints needs memory for one."""

    path: Path | None = None
    held: Folder | None = None

    def take(self, path: Path, device: str, dtype: torch.dtype, attention: str) -> Folder:
        if self.held is None or self.path != path:
            self.path, self.held = None, None  # let go before the next one is loaded
            self.held, self.path = load_folder(path, device, dtype, attention), path
        return self.held


@dataclass(frozen=True)
class Subject:
    """A checkpoint under study. `recipe` has the overrides of the study; `sampling` is how it is evaluated; `training`
    what it went through, empty where nobody knows; `device` and `dtype` where it is loaded."""

    label: str
    path: Path
    recipe: Recipe
    sampling: SamplingRecipe
    training: str = ""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    shelf: Shelf = field(default_factory=Shelf, compare=False)

    def take(self) -> Folder:
        """The checkpoint, with the recipe's kernels where it is on the recipe's device."""
        attention = self.recipe.engine.attention if self.device == self.recipe.engine.device else "auto"
        return self.shelf.take(self.path, self.device, self.dtype, attention)

    @property
    def evaluation(self) -> EvaluationRecipe:
        return self.recipe.evaluation

    @property
    def digest(self) -> str:
        """Of the recipe, overrides included."""
        return self.recipe.digest()

    @property
    def evaluated(self) -> dict:
        """How it is sampled, whatever the number of turns; `sampling` has the evaluation's temperature and times."""
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
        """Samples as the evaluation does, but for `guidance`, what counts as a stop, whether the evaluation's noise is
        on, and `changes` of the sampling. Nothing is recorded for training."""
        sampling = self.sampling.model_copy(update=changes)
        return evaluation_sampler(
            self.take(), sampling, self.evaluation, guidance=guidance, is_noisy=is_noisy, is_stop=is_stop
        )

    def sample(self, sampler: Sampler, requests: Sequence[Request], turns: int, tick: Tick) -> list[Trajectory]:
        """In batches of the evaluation's size; counts the images that each trajectory may draw."""
        size, out = self.evaluation.batch_size, []
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            out += sampler.sample(part, turns)
            tick(turns * len(part))
        return out

    def identity(self) -> dict:
        """What its results depend on: which weights, where they are loaded, and how they are sampled."""
        files = [file.stat() for file in weight_files(self.path)]
        return {
            "path": str(self.path), "weights": [[file.st_size, file.st_mtime_ns] for file in files],
            "device": self.device, "dtype": str(self.dtype), "evaluated": self.evaluated,
        }  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """How RL would learn from a subject: the learner's settings, and those of credit."""

    learner: LearnerSettings
    options: Options


@dataclass(frozen=True)
class Bench:
    """`verify` and `check_reflection` are the task's. Only the shapes world has `unclear` (cells of each image that
    nobody can read) and `paraphrase` (the same reflection in other words, None where there are none); elsewhere they
    are None. A verdict that is None says that nobody could judge the image. `score`: scorers beside the verdict; None
    without any. `lesson` is asked by studies of learning alone; `scratch` is a folder for what is large and can be made
    again."""

    subjects: Sequence[Subject]
    prompts: Sequence[Prompt]
    verify: Verify
    check_reflection: CheckReflection | None = None
    unclear: Callable[[list[Pixels]], list[int]] | None = None
    paraphrase: Callable[[str], str | None] | None = None
    score: Score | None = None
    commit: str = "unknown"
    lesson: Callable[[Subject], Lesson] | None = None
    scratch: Path | None = None

    def subject(self, label: str) -> Subject:
        return next(subject for subject in self.subjects if subject.label == label)

    @property
    def labels(self) -> list[str]:
        return [subject.label for subject in self.subjects]

    @property
    def in_world(self) -> bool:
        return self.unclear is not None

    @property
    def seed(self) -> int:
        """Of all sampling."""
        return self.subjects[0].evaluation.seed

    @property
    def digests(self) -> list[str]:
        """Of the recipes, overrides included, each once."""
        return list(dict.fromkeys(subject.digest for subject in self.subjects))

    def verdicts(self, trajectories: Sequence[Trajectory]) -> list[list]:
        """Verdicts on the images of each trajectory, turn by turn."""
        images = [image.pixels.cpu().numpy() for t in trajectories for image in t.images]
        found = iter(self.verify(images, [t.prompt for t in trajectories for _ in t.images]))
        return [[next(found) for _ in t.images] for t in trajectories]

    def outcomes(self, drawn: Sequence[Trajectory], turns: int, arm: str) -> tuple[list[Trajectory], Outcomes]:
        """The trajectories whose images all have a verdict, laid out by turn; the others are left out."""
        found = [(t, own) for t, own in zip(drawn, self.verdicts(drawn)) if None not in own]
        known, verdicts = [t for t, _ in found], [one for _, own in found for one in own]
        table = collect(
            known, lambda images, prompts: verdicts, turns=turns, arm=arm, seed=self.seed,
            check_reflection=self.check_reflection,
        )  # fmt: skip
        return known, table

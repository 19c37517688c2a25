"""What a study is given: checkpoints to sample from, prompts, and ways to judge what they draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, SamplingRecipe
from irg_rl.credit import Options
from irg_rl.evaluate.outcomes import CheckReflection, Pixels, Verify
from irg_rl.learner.actor import LearnerSettings
from irg_rl.model.files import weight_files
from irg_rl.model.folder import Folder, load_folder
from irg_rl.trajectory import Prompt, Trajectory
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

    def take(self, path: Path, device: str, dtype: torch.dtype) -> Folder:
        if self.held is None or self.path != path:
            self.path, self.held = None, None  # let go before the next one is loaded
            self.held, self.path = load_folder(path, device, dtype), path
        return self.held


@dataclass(frozen=True)
class Subject:
    """A checkpoint under study. `recipe` has the overrides of the study, `digest` is that of its run without them;
    `sampling` is how it is evaluated, `device` and `dtype` where it is loaded."""

    label: str
    path: Path
    digest: str
    recipe: Recipe
    sampling: SamplingRecipe
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    shelf: Shelf = field(default_factory=Shelf, compare=False)

    @property
    def evaluation(self) -> EvaluationRecipe:
        return self.recipe.evaluation

    @property
    def trained_turns(self) -> int:
        """Turns per trajectory in training, as its recipe says."""
        return self.recipe.sampling.turns

    def sampler(
        self,
        *,
        guidance: GuidanceRecipe | None = None,
        is_stop: Callable[[str], bool] = StopPhrase(),  # noqa: B008 - frozen
        is_noisy: bool = True,
        **changes: object,
    ) -> Sampler:
        """Samples as the evaluation does, but for `guidance`, what counts as a stop, whether the evaluation's noise is
        on, and `changes` of the sampling."""
        parts = self.shelf.take(self.path, self.device, self.dtype)
        chosen = self.evaluation.guidance if guidance is None else guidance
        return Sampler(
            parts.model.eval(), parts.autoencoder, parts.tokenizer, self.sampling.model_copy(update=changes),
            guidance=chosen if chosen.is_on else None, noise=self.evaluation.noise if is_noisy else None,
            is_stop=is_stop,
        )  # fmt: skip

    def sample(self, sampler: Sampler, requests: Sequence[Request], turns: int, tick: Tick) -> list[Trajectory]:
        """In batches of the evaluation's size; counts the images that each trajectory may draw."""
        size, out = self.evaluation.batch_size, []
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            out += sampler.sample(part, turns)
            tick(turns * len(part))
        return out

    def identity(self) -> dict:
        """What its results depend on: which weights, and how they are sampled and drawn by."""
        files = [file.stat() for file in weight_files(self.path)]
        return {
            "path": str(self.path), "weights": [[file.st_size, file.st_mtime_ns] for file in files],
            "sampling": self.sampling.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json", exclude={"prompts", "turns", "strips", "batch_size"}),
        }  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """How RL would learn from a subject: the learner's settings, and those of credit."""

    learner: LearnerSettings
    options: Options


@dataclass(frozen=True)
class Bench:
    """Only the shapes world has `check_reflection`, `unclear` (cells of each image that nobody can read) and
    `paraphrase` (the same reflection in other words, None where there are none); elsewhere they are None. `score`:
    scorers beside the verdict; None without any. `lesson` is asked by studies of learning alone; `scratch` is a folder
    for what is large and can be made again."""

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
        """Of the recipes that made the subjects, each once."""
        return list(dict.fromkeys(subject.digest for subject in self.subjects))

    def verdicts(self, trajectories: Sequence[Trajectory]) -> list[list]:
        """Verdicts on the images of each trajectory, turn by turn."""
        images = [image.pixels.cpu().numpy() for t in trajectories for image in t.images]
        found = iter(self.verify(images, [t.prompt for t in trajectories for _ in t.images]))
        return [[next(found) for _ in t.images] for t in trajectories]

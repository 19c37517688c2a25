"""Evaluates a checkpoint on held-out prompts. The model draws an image and then refines it. Two controls start from the
same first images, to show that refinement helps. One control draws each image again without refinement. The other
control uses the reflections of other prompts. The real refinement and the two controls are the three arms of an
evaluation."""

from dataclasses import dataclass, field, replace
from functools import partial
from math import isnan
from pathlib import Path

import numpy as np
import torch

from irg_rl.config import EvaluationRecipe
from irg_rl.driver.prepare import load_model, prompts_of
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.scorers import RememberedScores, reward_hub
from irg_rl.evaluate import metrics
from irg_rl.evaluate.gate import GateReport, check_gate
from irg_rl.evaluate.image_statistics import STATISTICS
from irg_rl.evaluate.outcomes import Outcomes, Prefer, collect
from irg_rl.evaluate.suite import REAL, REDRAW, SHUFFLED, Evaluation
from irg_rl.model.folder import Folder
from irg_rl.report.kept import kept_path, save_kept
from irg_rl.report.samples import SampledTrajectory, from_trajectory, save_samples
from irg_rl.task import Task, Thresholds, Verdict, task_of
from irg_rl.trajectory import Prompt, Trajectory, score_images
from rewards.hub import RewardHub
from rewards.judge import JudgeScorer
from rollouts.controls import redraw, shuffled_reflections
from rollouts.evaluation import evaluation_sampler, evaluation_sampling
from rollouts.request import Request
from rollouts.sampler import Sampler


@dataclass
class Evaluator:
    """Samples the arms of an evaluation (the real refinement and two controls) in batches and with fixed seeds. Each
    prompt gets `samples` trajectories.

    The scorers of `hub` score the images of two arms: the real refinement, and the control that draws images again.
    Some tasks use a scorer to decide whether an image is right. Then `hub` must contain this scorer.
    """

    run: Run
    settings: EvaluationRecipe
    hub: RewardHub | None = None
    samples: int = 1
    score: RememberedScores | None = field(init=False)
    task: Task = field(init=False)

    def __post_init__(self) -> None:
        self.score = None if self.hub is None else RememberedScores(self.hub)
        self.task = task_of(self.run.recipe, self.score)

    def sampler(self, folder: Folder) -> Sampler:
        sampling = evaluation_sampling(self.run.recipe.sampling, self.settings)
        return evaluation_sampler(folder, sampling, self.settings)

    def sample(self, sampler: Sampler, requests: list[Request], turns: int, title: str) -> list[Trajectory]:
        size, out = self.settings.batch_size, []
        with bar(title, len(requests)) as progress:
            for begin in range(0, len(requests), size):
                part = requests[begin : begin + size]
                out += sampler.sample(part, turns)
                progress.advance(len(part))
        return out

    def evaluate(self, folder: Folder, name: str, prompts: list[Prompt], controls: bool = True) -> "Measured":
        """Evaluate a model on the prompts: sample trajectories of the real arm, and decide which of their images are
        right. If `controls` is true, do the same for the two control arms. They start from the same first images (see
        rollouts.controls). `folder` is the loaded model, and `name` is its name in the results. Return the trajectories
        of the real arm and the results of all arms."""
        turns, seed = self.settings.turns, self.settings.seed
        sampler = self.sampler(folder)
        requests = [Request(prompt, sample, seed) for prompt in prompts for sample in range(self.samples)]
        real = self.sample(sampler, requests, turns, f"{name}: real")
        self._score(real)
        arms, drawn = {REAL: self._collect(real, REAL, self._prefer())}, {REAL: real}
        if controls:
            draw = partial(self.sample, sampler)
            redrawn = redraw(partial(draw, title=f"{name}: redraw"), real, turns, seed)
            self._score(redrawn)  # the baseline "best of n" chooses by these scores
            arms[REDRAW] = self._collect(redrawn, REDRAW)
            shuffled = shuffled_reflections(partial(draw, title=f"{name}: shuffled reflections"), real, turns, seed)
            arms[SHUFFLED] = self._collect(shuffled, SHUFFLED)
            drawn |= {REDRAW: redrawn, SHUFFLED: shuffled}
        return Measured(drawn, Evaluation(name, arms, settings=self._settings(len(prompts))), self.task)

    def _collect(self, trajectories: list[Trajectory], arm: str, prefer=None) -> Outcomes:
        return collect(
            trajectories, self.task.verdicts, turns=self.settings.turns, arm=arm, seed=self.settings.seed,
            check_reflection=self.task.check_reflection, prefer=prefer, statistics=STATISTICS,
        )  # fmt: skip

    def _score(self, trajectories: list[Trajectory]) -> None:
        """Score every image with every scorer, and store the scores in the `rewards` of the trajectories."""
        if self.hub is None or self.score is None:
            return
        names, ask = self.hub.names("image"), self.score
        score_images(
            trajectories, lambda images, prompts: {name: ask(name, images, prompts) for name in names}, self.hub.used
        )

    def _prefer(self) -> Prefer | None:
        """Return the function with which the judge `evaluation.preference` compares two images. Return None if the
        recipe names no such judge."""
        name = self.settings.preference
        if name is None or self.hub is None:
            return None
        judge = self.hub.scorers[name]
        assert isinstance(judge, JudgeScorer), f"{name} is no judge"  # the recipe has checked it
        return judge.prefer

    def _settings(self, prompts: int) -> dict:
        sampling = evaluation_sampling(self.run.recipe.sampling, self.settings).model_dump(mode="json")
        noise, judge = self.settings.noise, self.settings.preference
        return {**sampling, "split": self.settings.split, "turns": self.settings.turns, "prompts": prompts,
                "samples": self.samples, "seed": self.settings.seed, "preset": self.settings.preset,
                "guidance": self.settings.guidance.model_dump(mode="json"),
                "noise": None if noise is None else noise.model_dump(mode="json"),
                **({} if judge is None else {"preference": judge})}  # fmt: skip


@dataclass
class Measured:
    """The result of an evaluation: the trajectories and the results of all arms. The arms are the model's own
    refinement (`real`) and the controls."""

    drawn: dict[str, list[Trajectory]]
    evaluation: Evaluation
    task: Task

    @property
    def trajectories(self) -> list[Trajectory]:
        """The trajectories of the arm `real`."""
        return self.drawn[REAL]

    def keep(self, path: Path, most_mb: int) -> int:
        """Store the texts and images of all arms in the file `path`, in at most `most_mb` MiB. Return how many
        trajectories of each arm are stored."""
        arms = {arm: partial(self._sampled, arm) for arm in self.drawn}
        return save_kept(path, len(self.trajectories), arms, most_mb * 2**20)

    def _sampled(self, arm: str, row: int) -> SampledTrajectory:
        """Return one trajectory of one arm in the form of the report, with the verdicts of the arm's table."""
        trajectory, table = self.drawn[arm][row], self.evaluation.arms[arm]
        verdicts = [
            Verdict(bool(table.correct[row, k]), float(table.score[row, k])) if table.known[row, k] else None
            for k in range(trajectory.turns)
        ]
        return from_trajectory(trajectory, verdicts)

    def samples(self, count: int) -> list[SampledTrajectory]:
        """Return the first `count` trajectories, and for each image whether it is right. Prompts are in random order,
        so these trajectories are not chosen by quality."""
        return [
            from_trajectory(t, self.task.verdicts([i.pixels.numpy() for i in t.images], [t.prompt] * t.turns))
            for t in self.trajectories[:count]
        ]


def held_out_prompts(run: Run, split: str, count: int | None = None) -> list[Prompt]:
    """Return `count` prompts of a split. If `count` is None, the number is `evaluation.prompts` of the recipe. In this
    case, a split with fewer prompts is returned whole.

    Raises RunError if `count` is larger than the number of prompts.
    """
    prompts = prompts_of(run, split)
    if count is not None and len(prompts) < count:
        raise RunError(f"{count} prompts of the split {split} asked for, but there are {len(prompts)}: ask for fewer")
    return prompts[: run.recipe.evaluation.prompts if count is None else count]


def measure_stage(run: Run, name: str, facts: dict) -> Measured:
    """Evaluate the model folder `name` of the run with every scorer of the recipe, and save some sampled trajectories
    in samples/`name` of the run. The accuracy of each turn is stored in `facts`."""
    torch.set_num_threads(run.recipe.engine.threads)
    settings = run.recipe.evaluation
    with reward_hub(run.recipe, run.path("scorers")) as hub:
        prompts = held_out_prompts(run, settings.split)
        measured = Evaluator(run, settings, hub).evaluate(load_model(run, name), name, prompts)
    save_samples(run.path("samples", name), measured.samples(settings.strips))
    measured.keep(kept_path(run.folder, name), settings.keep_mb)
    real = measured.evaluation.arms[REAL]
    facts["accuracy_per_turn"] = [None if isnan(share) else round(share, 4) for share in accuracies(real)]
    if missing := int((~real.known & ~real.stopped).sum()):
        facts["images_without_verdict"] = missing
        console.print(f"[yellow]{missing} images of the real arm have no verdict: {measured.task.last_error}[/yellow]")
    if silent := int((real.asked & ~real.stopped & np.isnan(real.preferred)).sum()):
        facts["pairs_without_answer"] = silent
        console.print(f"[yellow]the judge compared {silent} pairs of images without a usable answer[/yellow]")
    return measured


def accuracies(table: Outcomes) -> list[float]:
    """Return the share of right images for each turn. Images with unknown correctness are left out. If no image is left
    in a turn, its share is nan."""
    return [metrics.accuracy(table, turn).value for turn in range(table.turns)]


def shown_accuracies(table: Outcomes) -> str:
    """Return the accuracy of every turn as one line of text, such as "0.500, 0.625"."""
    return ", ".join("no verdict" if isnan(share) else f"{share:.3f}" for share in accuracies(table))


def shown_preference(table: Outcomes) -> str:
    """Return, as one line of text, how often the judge prefers the image of each turn to the first image. Return "" if
    no judge was asked."""
    if not table.asked.any():
        return ""
    shares = [metrics.preferred(table, turn) for turn in range(1, table.turns)]
    told = ", ".join("no answer" if isnan(share.value) else f"{share.value:.3f} (n={share.n})" for share in shares)
    return f"preferred to the first image, ties as half, from turn 2 on: {told}"


def thresholds_of(run: Run) -> Thresholds | None:
    """Return the thresholds of the gate, which checks whether refinement really helps. A threshold in the recipe
    replaces the threshold of the task. If the task has no thresholds, the recipe must set all three. Otherwise there is
    no gate, and the result is None."""
    recipe, gate = run.recipe, run.recipe.gate
    own = {"first_accuracy": gate.first_accuracy, "damage": gate.damage, "margin": gate.margin}
    given = {name: value for name, value in own.items() if value is not None}
    thresholds = task_of(recipe).thresholds
    if thresholds is not None:
        return replace(thresholds, **given)
    return Thresholds(**given) if len(given) == len(own) else None


def gate_of(run: Run, evaluation: Evaluation) -> GateReport | None:
    """Check whether refinement passes the gate, and return the report. The gate is a test that refinement improves
    images more than two controls do. Return None if there is no gate."""
    thresholds, arms = thresholds_of(run), evaluation.arms
    return None if thresholds is None else check_gate(arms[REAL], arms[REDRAW], arms[SHUFFLED], thresholds)

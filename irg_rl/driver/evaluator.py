"""Evaluation of a checkpoint on held-out prompts: the real thing, and both controls from the same first images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from irg_rl.config import EvaluationRecipe, SamplingRecipe
from irg_rl.driver.prepare import load_model, prompts_of
from irg_rl.driver.progress import bar
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.driver.scorers import scorer_specs
from irg_rl.evaluate.gate import GateReport, Thresholds, check_gate
from irg_rl.evaluate.outcomes import Outcomes, collect
from irg_rl.evaluate.shapes import check_reflection, verify
from irg_rl.evaluate.suite import REAL, REDRAW, SHUFFLED, Evaluation
from irg_rl.model.folder import Folder
from irg_rl.report.samples import SampledTrajectory, from_trajectory, save_samples
from irg_rl.trajectory import Prompt, Trajectory
from rewards.hub import RewardHub
from rollouts.controls import redraw, shuffled_reflections
from rollouts.request import Request
from rollouts.sampler import Sampler


@dataclass
class Evaluator:
    """Samples the arms of an evaluation with fixed seeds, in batches; `samples` trajectories per prompt."""

    run: Run
    settings: EvaluationRecipe
    hub: RewardHub | None = None
    samples: int = 1

    def sampler(self, folder: Folder) -> Sampler:
        guidance, sampling = self.settings.guidance, evaluation_sampling(self.run.recipe.sampling, self.settings)
        return Sampler(
            folder.model.eval(), folder.autoencoder, folder.tokenizer, sampling,
            guidance=guidance if guidance.is_on else None, noise=self.settings.noise,
        )  # fmt: skip

    def sample(self, sampler: Sampler, requests: list[Request], turns: int, title: str) -> list[Trajectory]:
        size, out = self.settings.batch_size, []
        with bar(title, len(requests)) as progress:
            for begin in range(0, len(requests), size):
                part = requests[begin : begin + size]
                out += sampler.sample(part, turns)
                progress.advance(len(part))
        return out

    def evaluate(self, folder: Folder, name: str, prompts: list[Prompt], controls: bool = True) -> "Measured":
        """The real arm and, from its first images, both controls (rollouts.controls)."""
        turns, seed = self.settings.turns, self.settings.seed
        sampler = self.sampler(folder)
        requests = [Request(prompt, sample, seed) for prompt in prompts for sample in range(self.samples)]
        real = self.sample(sampler, requests, turns, f"{name}: real")
        if self.hub is not None:
            self._score(real)
        arms = {REAL: self._collect(real, REAL, self._prefer())}
        if controls:
            draw = partial(self.sample, sampler)
            redrawn = redraw(partial(draw, title=f"{name}: redraw"), real, turns, seed)
            arms[REDRAW] = self._collect(redrawn, REDRAW)
            shuffled = shuffled_reflections(partial(draw, title=f"{name}: shuffled reflections"), real, turns, seed)
            arms[SHUFFLED] = self._collect(shuffled, SHUFFLED)
        return Measured(real, Evaluation(name, arms, settings=self._settings(len(prompts))))

    def _collect(self, trajectories: list[Trajectory], arm: str, prefer=None) -> Outcomes:
        return collect(
            trajectories, verify, turns=self.settings.turns, arm=arm, seed=self.settings.seed,
            check_reflection=check_reflection, prefer=prefer,
        )  # fmt: skip

    def _score(self, trajectories: list[Trajectory]) -> None:
        images = [image.pixels.numpy() for t in trajectories for image in t.images]
        scores = self.hub.score(images, [t.prompt for t in trajectories for _ in t.images])
        at = 0
        for trajectory in trajectories:
            trajectory.rewards = {name: values[at : at + trajectory.turns] for name, values in scores.items()}
            at += trajectory.turns

    def _prefer(self):
        judges = [] if self.hub is None else [s for s in self.run.recipe.rewards.scorers if s.kind == "judge"]
        return self.hub.scorers[judges[0].name].prefer if judges else None

    def _settings(self, prompts: int) -> dict:
        sampling = evaluation_sampling(self.run.recipe.sampling, self.settings).model_dump(mode="json")
        noise = self.settings.noise
        return {**sampling, "turns": self.settings.turns, "prompts": prompts, "samples": self.samples,
                "seed": self.settings.seed, "preset": self.settings.preset,
                "guidance": self.settings.guidance.model_dump(mode="json"),
                "noise": None if noise is None else noise.model_dump(mode="json")}  # fmt: skip


def evaluation_sampling(sampling: SamplingRecipe, settings: EvaluationRecipe) -> SamplingRecipe:
    """The recipe's sampling with the temperature of evaluation and, where it has them, its time points and shift."""
    points = sampling.points if settings.points is None else settings.points
    shift = sampling.shift if settings.shift is None else settings.shift
    return sampling.model_copy(update={"temperature": settings.temperature, "points": points, "shift": shift})


@dataclass
class Measured:
    trajectories: list[Trajectory]
    evaluation: Evaluation

    def samples(self, count: int) -> list[SampledTrajectory]:
        """The first `count` trajectories with verdicts: prompts are in random order, so none is picked."""
        return [
            from_trajectory(t, verify([i.pixels.numpy() for i in t.images], [t.prompt] * t.turns))
            for t in self.trajectories[:count]
        ]


def held_out_prompts(run: Run, split: str, count: int | None = None) -> list[Prompt]:
    """`count` prompts of a split; None: as many as the recipe evaluates on, or all where there are fewer."""
    prompts = prompts_of(run, split)
    if count is not None and len(prompts) < count:
        there = f"world.{split}_prompts made {len(prompts)}"
        raise RunError(f"{count} held-out prompts asked for, but {there}: ask for fewer")
    return prompts[: run.recipe.evaluation.prompts if count is None else count]


@contextmanager
def reward_hub(run: Run) -> Iterator[RewardHub | None]:
    """All scorers of the recipe, the embedded judge included, for as long as the context; None where it has none."""
    with scorer_specs(run) as specs:
        yield RewardHub(specs, max_failure_share=run.recipe.rewards.max_failure_share) if specs else None


def measure_stage(run: Run, name: str, facts: dict) -> Measured:
    """Evaluate model folder `name` with every scorer; written to evaluation/ and samples/ of the run."""
    torch.set_num_threads(run.recipe.engine.threads)
    settings = run.recipe.evaluation
    with reward_hub(run) as hub:
        prompts = held_out_prompts(run, "test")
        measured = Evaluator(run, settings, hub).evaluate(load_model(run, name), name, prompts)
    save_samples(run.path("samples", name), measured.samples(settings.strips))
    real = measured.evaluation.arms[REAL]
    facts["accuracy_per_turn"] = [round(float(a), 4) for a in real.correct.mean(0)]
    return measured


def gate_of(run: Run, evaluation: Evaluation) -> GateReport:
    gate = run.recipe.gate
    arms = evaluation.arms
    return check_gate(
        arms[REAL], arms[REDRAW], arms[SHUFFLED], Thresholds(gate.first_accuracy, gate.damage, gate.margin)
    )

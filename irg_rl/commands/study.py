"""`irg-rl study`: a grid of measurements over checkpoints, or over forks of a run, with figures and a page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from irg_rl.commands.critic import CreditSettings
from irg_rl.commands.forking import trainer
from irg_rl.commands.generating import model_folder, recipe_of
from irg_rl.commands.learning import learner_settings
from irg_rl.commands.measure import evaluation_sampling, reward_hub
from irg_rl.commands.prepare import precision, prompts_file
from irg_rl.commands.progress import bar, console
from irg_rl.commands.run import Run, environment
from irg_rl.config import Recipe, RecipeError, ScorerRecipe, changed_recipe, nearest, split_override
from irg_rl.errors import InputError
from irg_rl.evaluate.outcomes import Pixels
from irg_rl.evaluate.shapes import check_reflection, verify
from irg_rl.shapes_world.paraphrase import paraphrase
from irg_rl.shapes_world.prompts import read_prompts
from irg_rl.studies import grid
from irg_rl.studies.bench import Bench, Lesson, Shelf, Subject
from irg_rl.studies.catalog import STUDIES
from irg_rl.studies.forks import Forks
from irg_rl.studies.page import write_page
from irg_rl.studies.settings import StudySettings, parse_settings
from irg_rl.studies.study import Cell, Study
from irg_rl.studies.world import is_world, unclear_cells
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub

OWN = "study."
"""How settings of the study itself begin; all others are the recipe's."""
CHEAP = ("clip", "hps")
"""Kinds of scorers that score beside the verdict unless others are named."""


@dataclass(frozen=True)
class Asked:
    """The words of the command, sorted."""

    targets: list[Path]
    overrides: dict[str, object]
    own: dict[str, object]

    @classmethod
    def of(cls, words: Sequence[str]) -> "Asked":
        targets = [Path(word) for word in words if "=" not in word]
        pairs = dict(split_override(word) for word in words if "=" in word)
        if not targets:
            raise InputError("name at least one run or checkpoint to study, before the settings")
        own = {key.removeprefix(OWN): value for key, value in pairs.items() if key.startswith(OWN)}
        return cls(targets, {key: value for key, value in pairs.items() if not key.startswith(OWN)}, own)


def run_study(name: str, words: Sequence[str], out: Path | None) -> None:
    """Measure what is missing of the grid, then write results, figures and the page."""
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}{nearest(name, list(STUDIES))}")
    kind, asked = STUDIES[name], Asked.of(words)
    settings = parse_settings(kind.settings_type, asked.own, name)
    subjects = [subject_of(target, asked.overrides) for target in asked.targets]
    subjects = with_labels(subjects, Shelf())
    folder = out or default_folder(asked.targets[0], name)
    torch.set_num_threads(subjects[0].recipe.engine.threads)
    with bench_of(subjects, asked.targets[0], settings, folder) as bench:
        study = kind(bench, settings)
        if isinstance(study, Forks):
            study.train = trainer(run_of(subjects[0]), folder / "runs", asked.overrides)
        if study.needs_world and not bench.in_world:
            raise InputError(
                f"the study {name!r} makes and degrades pictures and texts of the shapes world; these prompts or "
                "images are not of it"
            )
        measure(study, folder)
        finish(study, folder, words)


def measure(study: Study, folder: Path) -> None:
    cells, todo = study.cells(), grid.missing(folder, study)
    total = sum(cell.work for cell in cells)
    console.print(f"study {study.name}: {len(cells)} cells, {len(todo)} to measure; {folder}", soft_wrap=True)
    if not todo:
        return
    if study.trains:
        train_forks(study, folder, todo)
        return
    with bar(f"{study.name} ({study.unit})", total, total - sum(cell.work for cell in todo)) as progress:
        grid.work_through(folder, study, lambda units, note: progress.advance(units, note=note))


def train_forks(study: Study, folder: Path, todo: Sequence[Cell]) -> None:
    """Every fork shows its own progress; between them stands what is left."""
    begun = time.monotonic()
    for number, cell in enumerate(todo):
        left = (time.monotonic() - begun) / max(number, 1) * (len(todo) - number) / 60
        when = f", about {left:.0f} min left" if number else ""
        console.print(f"[bold]{study.name}: fork {number + 1} of {len(todo)}[/bold]: {cell.title}{when}")
        grid.finish(folder, study, cell, lambda units: None)


def run_of(subject: Subject) -> Run:
    """The run that a checkpoint lies in."""
    return Run.open(subject.path.parent.parent)


def lesson_of(subject: Subject) -> Lesson:
    """How RL would learn from a checkpoint, as its recipe says."""
    if subject.recipe.engine.zero_stage == 3:
        raise InputError(f"{subject.label}: gradients are scattered under ZeRO 3: give engine.zero_stage=2")
    return Lesson(learner_settings(subject.recipe, str(subject.path)), CreditSettings.of(subject.recipe).options)


def finish(study: Study, folder: Path, words: Sequence[str]) -> None:
    bench = study.bench
    facts = {
        "checkpoints": ", ".join(bench.labels), "recipe digest": ", ".join(bench.digests), "commit": bench.commit,
        "prompts": f"{len(bench.prompts)}", "seed": f"{bench.seed}", "settings": study.settings.model_dump_json(),
        "evaluation": evaluation_words(bench.subjects[0]), "command": " ".join(["irg-rl study", study.name, *words]),
    }  # fmt: skip
    findings = study.findings(grid.results(folder, study, facts))
    page = write_page(folder, study.name, study.question, facts, findings)
    console.print(findings.headline, soft_wrap=True, markup=False)
    console.print(f"written: {page}", soft_wrap=True, markup=False)


def evaluation_words(subject: Subject) -> str:
    sampling, settings = subject.sampling, subject.evaluation
    noise = "none" if settings.noise is None else f"{settings.noise.kind} {settings.noise.noise_level:g}"
    return (
        f"{sampling.points} time points, shift {sampling.shift:g}, text guidance {settings.guidance.text_scale:g}, "
        f"image guidance {settings.guidance.image_scale:g}, noise {noise}, temperature {sampling.temperature:g}"
    )


def subject_of(target: Path, overrides: dict[str, object]) -> Subject:
    """A run (its last model) or a model folder, in a run or outside of one, as its recipe evaluates it."""
    if "sampling.turns" in overrides:
        raise RecipeError("sampling.turns says how a checkpoint was trained: a study has turns of its own, study.turns")
    path = model_folder(target).resolve()
    made = recipe_of(path)
    recipe = changed_recipe(made, overrides, str(target))
    on_gpu = recipe.engine.device != "cpu" and torch.cuda.is_available()
    device, dtype = (recipe.engine.device, precision(recipe)) if on_gpu else ("cpu", torch.float32)
    sampling = evaluation_sampling(recipe.sampling, recipe.evaluation)
    return Subject(path.name, path, made.digest(), recipe, sampling, device, dtype)


def with_labels(subjects: Sequence[Subject], shelf: Shelf) -> list[Subject]:
    """Checkpoints named by their folder, with the run's name in front where two would be called the same."""
    names = [subject.label for subject in subjects]
    if len(set(names)) < len(names):
        names = [f"{subject.path.parent.parent.name}/{subject.label}" for subject in subjects]
    if len(set(names)) < len(names):
        raise InputError(f"two of the checkpoints are called the same ({', '.join(names)}): name each of them once")
    return [replace(subject, label=name, shelf=shelf) for name, subject in zip(names, subjects)]


def default_folder(target: Path, name: str) -> Path:
    """Among what the run holds; outside of one, here."""
    run = model_folder(target).resolve().parent.parent
    return (run if (run / "recipe.yaml").is_file() else Path()) / "studies" / name


@contextmanager
def bench_of(subjects: list[Subject], target: Path, settings: StudySettings, folder: Path) -> Iterator[Bench]:
    """The shapes world judges its own prompts by its checker. All others are judged by the rewards of the first recipe:
    an image's score is their weighted sum, and it counts as right from 1 on."""
    first = subjects[0]
    inside = (first.path.parent.parent / "recipe.yaml").is_file()
    run = Run(first.path.parent.parent if inside else folder, first.recipe)
    prompts = study_prompts(run, settings, target)
    commit = environment(first.recipe)["commit"]
    if is_world(prompts, first.recipe.sampling.image_size):
        chosen = chosen_scorers(first.recipe, settings.scorers)
        with hub_of(run, chosen) as hub:
            score = None if hub is None else hub.score
            yield Bench(
                subjects, prompts, verify, check_reflection, unclear_cells, paraphrase, score, commit, lesson_of, folder
            )
        return
    rewarding = [scorer for scorer in first.recipe.rewards.scorers if not scorer.held_out]
    if not rewarding:
        raise InputError(
            f"{target}: prompts outside of the shapes world are judged by the recipe's rewards, and it has none: name "
            "one, as rewards.scorers=[{name: clip, kind: clip, path: FILE}]"
        )
    with hub_of(run, first.recipe.rewards.scorers) as hub:
        weights = {scorer.name: scorer.weight for scorer in rewarding}
        yield Bench(
            subjects, prompts, RewardVerdicts(hub, weights), score=hub.score, commit=commit, lesson=lesson_of,
            scratch=folder,
        )  # fmt: skip


@dataclass(frozen=True)
class RewardVerdict:
    correct: bool
    score: float


@dataclass(frozen=True)
class RewardVerdicts:
    """Verdicts from rewards, for prompts that no checker understands."""

    hub: RewardHub
    weights: dict[str, float]

    def __call__(self, images: list[Pixels], prompts: list[Prompt]) -> list[RewardVerdict]:
        found = self.hub.score(images, prompts)
        verdicts = []
        for index in range(len(images)):
            values = {name: found[name][index] for name in self.weights}
            failed = [name for name, value in values.items() if value is None]
            score = float("nan") if failed else sum(self.weights[name] * values[name] for name in self.weights)
            verdicts.append(RewardVerdict(score >= 1, score))
        return verdicts


def chosen_scorers(recipe: Recipe, names: list[str] | None) -> list[ScorerRecipe]:
    scorers = recipe.rewards.scorers
    if names is None:
        return [scorer for scorer in scorers if scorer.kind in CHEAP]
    known = {scorer.name: scorer for scorer in scorers}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"study.scorers: the recipe has no scorer {unknown[0]!r}{nearest(unknown[0], list(known))}")
    return [known[name] for name in names]


@contextmanager
def hub_of(run: Run, scorers: list[ScorerRecipe]) -> Iterator[RewardHub | None]:
    rewards = run.recipe.rewards.model_copy(update={"scorers": scorers})
    with reward_hub(Run(run.folder, run.recipe.model_copy(update={"rewards": rewards}))) as hub:
        yield hub


def study_prompts(run: Run, settings: StudySettings, target: Path) -> list[Prompt]:
    """As many as the recipe evaluates on, or all where there are fewer."""
    file = Path(settings.prompts) if settings.prompts else prompts_file(run, settings.split)
    if not file.is_file():
        raise InputError(f"{target}: no prompts in {file}: name a jsonl of prompts with study.prompts=FILE")
    return read_prompts(file)[: run.recipe.evaluation.prompts]

"""`irg-rl study`: makes a study. A study compares all combinations of the settings that the user lists. Some studies
measure given checkpoints with every combination. Other studies train a fork for every combination. A fork is a new run
that starts RL from the SFT checkpoint of a given run. The results are figures and an HTML page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from irg_rl.algorithms.base import segment_weights
from irg_rl.commands.generate import model_folder, recipe_of
from irg_rl.config import Recipe, RecipeError, ScorerRecipe, changed_recipe, nearest, split_override
from irg_rl.driver.compare import CONTINUED
from irg_rl.driver.prepare import prompts_file, rl_prompts_file
from irg_rl.driver.progress import bar, console
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.run_folder import SFT_MODELS, Run, environment
from irg_rl.driver.scorers import reward_hub
from irg_rl.driver.study_forks import trainer
from irg_rl.errors import InputError
from irg_rl.learner.from_recipe import precision
from irg_rl.prompts import read_prompts
from irg_rl.studies import grid
from irg_rl.studies.bench import Bench, LearningSetup, ModelCache, Subject
from irg_rl.studies.catalog import STUDIES
from irg_rl.studies.forks import Forks
from irg_rl.studies.page import write_page
from irg_rl.studies.settings import CreditStudySettings, PromptSettings, StudySettings, TurnsSettings, parse_settings
from irg_rl.studies.study import Cell, Study
from irg_rl.studies.world import loan_of
from irg_rl.task import Pixels, Verdict, World, task_of
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub
from rewards.segments import score_segments
from rollouts.evaluation import evaluation_sampling

OWN = "study."
"""Prefix of a setting's name on the command line. A setting with this prefix belongs to the study, and a setting
without it belongs to the recipe."""
CHEAP = ("clip", "hps")
"""The kinds of scorers that are used if the user names no scorers. The study then reports their scores in addition to
the share of right images."""


@dataclass(frozen=True)
class StudyArguments:
    """The arguments of the command: the runs or checkpoints to study (`targets`), settings of the recipe (`overrides`)
    and settings of the study (`own`)."""

    targets: list[Path]
    overrides: dict[str, object]
    own: dict[str, object]

    @classmethod
    def of(cls, words: Sequence[str]) -> "StudyArguments":
        targets = [Path(word) for word in words if "=" not in word]
        pairs = dict(split_override(word) for word in words if "=" in word)
        if not targets:
            raise InputError("name at least one run or checkpoint to study, before the settings")
        own = {key.removeprefix(OWN): value for key, value in pairs.items() if key.startswith(OWN)}
        return cls(targets, {key: value for key, value in pairs.items() if not key.startswith(OWN)}, own)


def run_study(name: str, words: Sequence[str], out: Path | None) -> None:
    """Run the study `name`. `words` are the arguments of the command: runs, checkpoints and settings. Combinations of
    settings that were already measured are not measured again. Write the results, figures and page to `out`, or to a
    folder in the first run."""
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}{nearest(name, list(STUDIES))}")
    kind, asked = STUDIES[name], StudyArguments.of(words)
    settings = parse_settings(kind.settings_type, asked.own, name)
    if "sampling.turns" in asked.overrides and not kind.trains:
        raise RecipeError("sampling.turns says how a checkpoint was trained: a study has turns of its own, study.turns")
    subjects = [subject_of(target, asked.overrides) for target in asked.targets]
    subjects = with_labels(subjects, ModelCache())
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
    """Train one fork (a new run with changed settings) for each combination of settings in `todo`, and write its
    results into `folder`, the folder of the study. Each fork shows its own progress. Before each fork, the remaining
    time is printed."""
    begun = time.monotonic()
    for number, cell in enumerate(todo):
        left = (time.monotonic() - begun) / max(number, 1) * (len(todo) - number) / 60
        when = f", about {left:.0f} min left" if number else ""
        console.print(f"{study.name}: fork {number + 1} of {len(todo)}: {cell.title}{when}", style="bold")
        grid.finish(folder, study, cell, lambda units: None)


def run_of(subject: Subject) -> Run:
    """Return the run that contains the checkpoint `subject`."""
    return Run.open(subject.path.parent.parent)


def learning_setup_of(subject: Subject) -> LearningSetup:
    """Return the settings with which RL would train the checkpoint `subject`, according to its recipe. Raises
    InputError if the recipe uses ZeRO stage 3."""
    if subject.recipe.engine.zero_stage == 3:
        raise InputError(f"{subject.label}: gradients are scattered under ZeRO 3: give engine.zero_stage=2")
    options = subject.recipe.require_rl().credit_options
    return LearningSetup(learner_settings(subject.recipe, str(subject.path)), options)


def finish(study: Study, folder: Path, words: Sequence[str]) -> None:
    bench = study.bench
    facts = {
        "checkpoints": ", ".join(bench.labels), "recipe digest": ", ".join(bench.digests),
        "prompts": f"{len(bench.prompts)}", "seed": f"{bench.seed}", "settings": study.settings.model_dump_json(),
        **evaluations(bench.subjects), "command": " ".join(["irg-rl study", study.name, *words]),
    }  # fmt: skip
    frame = grid.results(folder, study, facts)
    facts["commit"] = ", ".join(frame.values("commit"))
    findings = study.findings(frame)
    page = write_page(folder, study.name, study.question, facts, findings)
    console.print(findings.headline, soft_wrap=True, markup=False)
    console.print(f"written: {page}", soft_wrap=True, markup=False)


def evaluations(subjects: Sequence[Subject]) -> dict[str, str]:
    """Return a dict with one entry for each checkpoint in `subjects`. The key contains the label of the checkpoint. The
    value is a text about its evaluation settings. If the evaluation settings differ between checkpoints, the entry
    "warning" says so."""
    told = {f"evaluation of {subject.label}": evaluation_words(subject) for subject in subjects}
    if any(subject.evaluated != subjects[0].evaluated for subject in subjects):
        told["warning"] = "evaluated differently: not all of a difference between checkpoints is their weights' doing"
    return told


def evaluation_words(subject: Subject) -> str:
    sampling, settings = subject.sampling, subject.evaluation
    noise = "none" if settings.noise is None else f"{settings.noise.kind} {settings.noise.noise_level:g}"
    return (
        f"{sampling.points} time points, shift {sampling.shift:g}, text guidance {settings.guidance.text_scale:g}, "
        f"image guidance {settings.guidance.image_scale:g}, noise {noise}, temperature {sampling.temperature:g}, "
        f"history {sampling.history}"
    )


def subject_of(target: Path, overrides: dict[str, object]) -> Subject:
    """Return a `Subject`: a checkpoint to study, with the evaluation settings of its recipe. `target` is a run (its
    newest model is used) or a model folder. `overrides` replace settings of the recipe."""
    path = model_folder(target).resolve()
    recipe = changed_recipe(recipe_of(path), overrides, str(target))
    on_gpu = recipe.engine.device != "cpu" and torch.cuda.is_available()
    device, dtype = (recipe.engine.device, precision(recipe)) if on_gpu else ("cpu", torch.float32)
    sampling = evaluation_sampling(recipe.sampling, recipe.evaluation)
    return Subject(path.name, path, recipe, sampling, training_of(path, recipe), device, dtype)


def training_of(path: Path, recipe: Recipe) -> str:
    """Return a short text that says how the model in the folder `path` was trained: "SFT", or "trained n=..." with the
    number of turns in RL. The text is empty if the folder is not inside a run."""
    if not (path.parent.parent / "recipe.yaml").is_file():
        return ""
    return "SFT" if path.name in (*SFT_MODELS.values(), CONTINUED) else f"trained n={recipe.sampling.turns}"


def with_labels(subjects: Sequence[Subject], cache: ModelCache) -> list[Subject]:
    """Return the subjects (checkpoints) with labels and a shared cache of loaded models. The label is the name of the
    model folder. If two checkpoints have folders of the same name, the name of the run is put in front of each label.
    Raises InputError if two labels are then still equal."""
    names = [subject.label for subject in subjects]
    if len(set(names)) < len(names):
        names = [f"{subject.path.parent.parent.name}/{subject.label}" for subject in subjects]
    if len(set(names)) < len(names):
        raise InputError(f"two of the checkpoints are called the same ({', '.join(names)}): name each of them once")
    return [replace(subject, label=name, cache=cache) for name, subject in zip(names, subjects)]


def default_folder(target: Path, name: str) -> Path:
    """Return the default folder for the results of a study. If a run contains the target, it is studies/NAME in this
    run. Otherwise it is studies/NAME in the current folder."""
    run = model_folder(target).resolve().parent.parent
    return (run if (run / "recipe.yaml").is_file() else Path()) / "studies" / name


@contextmanager
def bench_of(subjects: list[Subject], target: Path, settings: StudySettings, folder: Path) -> Iterator[Bench]:
    """Return a context manager (for `with`). It gives the `Bench` of a study: the checkpoints to study, the prompts,
    and the functions that decide whether an image is right. `settings` are the settings of the study, and `folder` is
    its folder. `target` is only used in error messages.

    The task is the part of the recipe that gives prompts. If the task can judge the images of all prompts, it decides
    whether an image is right. Otherwise the scorers in the recipe of the first checkpoint decide. Then an image is
    right if the weighted sum of their scores is at least 1. Held-out scorers are not used. Raises InputError if no
    other scorers exist.
    """
    first = subjects[0]
    inside = (first.path.parent.parent / "recipe.yaml").is_file()
    run = Run(first.path.parent.parent if inside else folder, first.recipe)
    prompts = study_prompts(run, settings, target)
    task = task_of(first.recipe)
    known = all(task.judges(prompt) for prompt in prompts)
    beside = chosen_scorers(first.recipe, settings.scorers) if isinstance(settings, TurnsSettings) else []
    scorers = first.recipe.rewards.scorers
    rewarding = [
        s for s in scorers if (s.name == task.verdict_scorer if known else s.of == "image" and not s.held_out)
    ]
    if not known and not rewarding:
        raise InputError(
            f"{target}: the task {first.recipe.task} cannot judge these prompts, and the recipe has no rewards that "
            "could: name one, as rewards.scorers=[{name: clip, kind: clip, path: FILE}]"
        )
    of_segments = list(segment_weights(first.recipe)) if isinstance(settings, CreditStudySettings) else []
    names = [*(scorer.name for scorer in (*beside, *rewarding)), *of_segments]
    with reward_hub(run.recipe, run.path("scorers"), names) as hub:
        score = None if hub is None or not beside else partial(scores_of, hub, [scorer.name for scorer in beside])
        if known:
            task = task_of(first.recipe, None if hub is None else hub.score_with)
            verify, check = task.verdicts, task.check_reflection
        else:
            assert hub is not None
            verify, check = RewardVerdicts(hub, {scorer.name: scorer.weight for scorer in rewarding}), None
        segments = None if hub is None or not of_segments else partial(score_segments, hub=hub)
        loan = loan_of(task, prompts)
        yield Bench(
            subjects, prompts, verify, check, loan.unclear, loan.paraphrase, score,
            commit=environment(first.recipe)["commit"], score_segments=segments, learning=learning_setup_of,
            scratch=folder,
        )  # fmt: skip


@dataclass(frozen=True)
class RewardVerdicts:
    """A function that decides from the scores of scorers whether images are right. It is used if the task cannot judge
    the images of the prompts. The verdict on an image is None if a scorer failed on it."""

    hub: RewardHub
    weights: dict[str, float]

    def __call__(self, images: list[Pixels], prompts: list[Prompt]) -> list[Verdict | None]:
        found = scores_of(self.hub, list(self.weights), images, prompts)
        return [
            self._verdict({name: found[name][i] for name in self.weights if self.hub.used(name, prompt)})
            for i, prompt in enumerate(prompts)
        ]

    def _verdict(self, scores: dict[str, float | None]) -> Verdict | None:
        known = {name: score for name, score in scores.items() if score is not None}
        if not known or len(known) < len(scores):
            return None
        score = sum(self.weights[name] * value for name, value in known.items())
        return Verdict(score >= 1, score)


def scores_of(
    hub: RewardHub, names: list[str], images: list[Pixels], prompts: list[Prompt]
) -> dict[str, list[float | None]]:
    """Let the scorers in `names` score the images. Return a dict from the name of a scorer to its scores, one per
    image. A score is None if the scorer failed on the image. `prompts` has one prompt for each image."""
    return {name: hub.score_with(name, images, prompts) if images else [] for name in names}


def chosen_scorers(recipe: Recipe, names: list[str] | None) -> list[ScorerRecipe]:
    scorers = recipe.rewards.scorers
    if names is None:
        return [scorer for scorer in scorers if scorer.kind in CHEAP]
    known = {scorer.name: scorer for scorer in scorers}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"study.scorers: the recipe has no scorer {unknown[0]!r}{nearest(unknown[0], list(known))}")
    return [known[name] for name in names]


def study_prompts(run: Run, settings: StudySettings, target: Path) -> list[Prompt]:
    """Return the prompts of the study. The study may say how many prompts it needs. Otherwise `evaluation.prompts` of
    the recipe gives the number.

    If the user names a file (`study.prompts`), the prompts come from this file. Otherwise they come from a file of the
    run. If the file of the run has too few prompts, a task of the class `World` (a task that makes its own data) makes
    more. If there are still too few, the function returns fewer prompts. Raises InputError if the file with the prompts
    does not exist. `target` is only used in this error message.
    """
    asked = settings if isinstance(settings, PromptSettings) else PromptSettings()
    learned = asked.split == "train" and run.recipe.rl is not None
    file = Path(asked.prompts) if asked.prompts else rl_prompts_file(run) if learned else prompts_file(run, asked.split)
    if not file.is_file():
        raise InputError(f"{target}: no prompts in {file}: name a jsonl of prompts with study.prompts=FILE")
    prompts = read_prompts(file)
    if asked.needed is None:
        return prompts[: run.recipe.evaluation.prompts]
    task = task_of(run.recipe)
    if len(prompts) < asked.needed and file == prompts_file(run, asked.split) and isinstance(task, World):
        with suppress(InputError):  # a held-out split has few prompts; the study reports if some are missing
            prompts = task.prompts(asked.split, asked.needed)
    return prompts[: asked.needed]

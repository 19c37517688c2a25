"""Checks whether a recipe (the settings of a run) can be run: are its scorers and its task valid, do its files exist,
and does this machine have what the recipe needs?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from irg_rl import faults
from irg_rl.algorithms.base import applying, reward_weights, scorer_conditions
from irg_rl.cluster.attached import AttachedRay
from irg_rl.cluster.placement import in_stock, living_nodes
from irg_rl.cluster.ray_runtime import RayStartError
from irg_rl.cluster.shared_memory import free_shared_memory, store_mb
from irg_rl.config import OWN_REFINED, Recipe, RecipeError, ScorerRecipe, nearest
from irg_rl.config.rewards import JUDGE_KINDS, OPEN_CLIP_KINDS
from irg_rl.driver.prepare import OWN_ROWS
from irg_rl.driver.room import asked_by_rl, asked_by_sft
from irg_rl.driver.scorers import spec_of
from irg_rl.driver.stages import NAMES
from irg_rl.environment import wandb_mode
from irg_rl.errors import InputError
from irg_rl.model.attention import Backend
from irg_rl.model.config import ModelConfig
from irg_rl.model.folder import check_folder, require_sizes
from irg_rl.prompts import PromptOrder, fits, read_prompts
from irg_rl.records import group_folders
from irg_rl.redact import redact, redact_text
from irg_rl.task import Task, World, task_of
from irg_rl.trajectory import Prompt
from rewards.atomic import AtomicScorer, NoAtoms
from rewards.base import ScorerUnavailable
from rewards.build import ScorerSpec, check_spec, scorer_constructor, typed_options
from rewards.geneval2 import atoms_of
from rewards.judge import JudgeScorer
from rewards.ocr import FIELD, why_no_text
from rewards.remote import RemoteScorer
from rollouts.request import StopPhrase
from sft.dataset import DataError, Rejections, RowSource

JUDGE_PATIENCE_S = 10.0
"""How many seconds a judge may take to answer the test question."""
QUICK = (*JUDGE_KINDS, "remote", "jpeg", "ocr", "form", "length", "repetition")
"""Kinds of scorers that are made at once, without a model or a task. So a check can make them, which finds options that
contradict each other."""


def machine_problems(recipe: Recipe) -> list[str]:
    """Check whether this machine, or the cluster that the recipe names, can run the recipe: GPUs, packages, files,
    scorers and judges. Return one message for each problem."""
    problems = gpu_problems(recipe) if recipe.engine.address is None else cluster_problems(recipe)
    problems += attention_problems(recipe) + tracking_problems(recipe) + fault_problems(recipe)
    problems += task_of(recipe).missing() + memory_problems(recipe)
    if recipe.init_from is not None:
        problems += folder_problems(Path(recipe.init_from), recipe.model)
    if recipe.sft is not None and recipe.sft.data is not None:
        for name, stage in recipe.sft.stages.items():
            for source in stage.sources:
                if source.folder == OWN_REFINED:  # made by the run
                    continue
                try:
                    RowSource(Path(recipe.sft.data) / source.folder, recipe.seed, Rejections())
                except DataError as error:
                    problems.append(f"sft.{name}.sources: {error}")
    for scorer in recipe.rewards.scorers:
        path = scorer.options.get("path", scorer.path)
        if path is not None and not Path(path).exists():
            problems.append(f"rewards.scorers: {scorer.name} finds no model at {path}")
        try:
            try_scorer(recipe, scorer)
            if scorer.kind in (*JUDGE_KINDS, "remote") and scorer.base_url is not None:
                ask_server(recipe, scorer)
        except ScorerUnavailable as error:
            problems.append(f"rewards.scorers: {scorer.name}: {error}")
        except InputError:
            continue  # wrong on every machine, so scorer_problems reports it
    if recipe.rl is not None and recipe.rl.rollouts is not None:
        try:
            group_folders(Path(recipe.rl.rollouts))
        except InputError as error:
            problems.append(f"rl.rollouts: {error}")
    if recipe.rl is not None and recipe.rl.prompts is not None:
        try:
            prompts = read_prompts(recipe.rl.prompts, require_judged(recipe))
            PromptOrder(prompts, recipe.rl_seed, recipe.rl.prompt_mix)
            require_reward(recipe, prompts)
        except (InputError, OSError) as error:
            problems.append(f"rl.prompts: {error}")
    return problems


def memory_problems(recipe: Recipe) -> list[str]:
    """Return a message if the shared memory of this machine is too small for `engine.object_store_mb`."""
    try:
        store_mb(0, recipe.engine.object_store_mb, free_shared_memory())
    except InputError as error:
        return [str(error)]
    return []


def cluster_problems(recipe: Recipe) -> list[str]:
    """Check whether the Ray cluster that the recipe names exists, and whether its nodes have enough CPUs and GPUs for
    the actors of the recipe. Return one message for each problem. Other jobs are not counted here. They may end before
    the actors start."""
    address = recipe.engine.address
    assert address is not None
    try:
        with AttachedRay(address, "check"):
            nodes = living_nodes()
    except RayStartError as error:
        return [str(error)]
    cpus, gpus = (sum(node.total.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    stages = {} if recipe.sft is None else recipe.sft.stages
    asked = {f"sft.{name}": asked_by_sft(recipe, stage) for name, stage in stages.items()}
    asked |= {} if recipe.rl is None else {"rl": asked_by_rl(recipe)}
    return gpu_problems(recipe, int(gpus)) + [
        f"{place} asks for {', '.join(map(str, actors))}. {in_stock(nodes)} Lower engine.threads or add nodes"
        for place, actors in asked.items()
        if sum(one.count * one.cpus for one in actors) > cpus
    ]


def gpu_problems(recipe: Recipe, in_cluster: int | None = None) -> list[str]:
    """Check whether there are enough GPUs for the learners and rollout actors of the recipe: on this machine, or in a
    cluster that has `in_cluster` of them. Without enough GPUs they would wait forever. The critic needs no GPU of its
    own (see Recipe.critic_gpus). Return one message for each stage that needs too many GPUs."""
    engine = recipe.engine
    if engine.device != "cuda":
        return []
    if not torch.cuda.is_available():
        return ["engine.device is cuda, but no GPU is visible: use a GPU machine or engine.device=cpu"]
    there = torch.cuda.device_count() if in_cluster is None else in_cluster
    room = there * engine.processes_per_gpu
    where = "visible" if in_cluster is None else "in the cluster"
    return [
        f"{place} has {count} processes and {there} GPUs with room for {room} are {where}: lower engine.learner_ranks, "
        "sft.learner_ranks, engine.rollout_actors or engine.gpu_share"
        for place, count in recipe.model_processes.items()
        if count > room
    ]


def attention_problems(recipe: Recipe) -> list[str]:
    """Check whether the attention kernels that the recipe names are installed. Return a list with one message if they
    are not. (The recipe itself checks that kernels for a GPU are used on a GPU.)"""
    try:
        Backend(recipe.engine.attention).require_kernels()
    except InputError as error:
        return [f"engine.{error}"]
    return []


def fault_problems(recipe: Recipe) -> list[str]:
    """Return a message if the recipe has faults on purpose, but the environment does not allow them."""
    try:
        faults.require_permission() if recipe.faults else None
    except InputError as error:
        return [str(error)]
    return []


def tracking_problems(recipe: Recipe) -> list[str]:
    """Check the environment variables of wandb, if the recipe uses wandb. Return a list with one message if a variable
    is invalid."""
    try:
        wandb_mode() if recipe.tracking.wandb else None
    except InputError as error:
        return [f"tracking: {error}"]
    return []


def folder_problems(path: Path, asked: ModelConfig) -> list[str]:
    """Check the model folder `path` from which the recipe starts. Return a list with one message in any of these cases:
    * `path` is no folder.
    * The JSON files or the headers of the weights are invalid.
    * The model sizes differ from `asked`, the sizes in the recipe."""
    if not path.is_dir():
        return [f"init_from: {path} is not a folder in the released layout"]
    try:
        require_sizes(check_folder(path).model.config, asked, path)
    except InputError as error:
        return [f"init_from: {error}"]
    return []


def require_judged(recipe: Recipe) -> Callable[[Prompt], None]:
    """Return a function that checks one RL prompt. If the recipe has a scorer of kind `verifier`, the returned function
    raises ValueError for a prompt that the task cannot judge. Otherwise the returned function accepts every prompt."""
    task, verified = task_of(recipe), any(scorer.kind == "verifier" for scorer in recipe.rewards.scorers)

    def check(prompt: Prompt) -> None:
        if verified and not task.judges(prompt):
            raise ValueError(f"the metadata of prompt {prompt.id!r} is not what the task {recipe.task} reads")

    return check


def require_reward(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Raise InputError if there is a prompt for which no scorer of images gives a reward, because the `when` of every
    such scorer leaves it out, or for which a scorer finds nothing to score."""
    weights, conditions = reward_weights(recipe), scorer_conditions(recipe)
    for prompt in prompts:
        if not applying(weights, conditions, prompt):
            raise InputError(
                f"rewards.scorers: no scorer of images is used for prompt {prompt.id!r} with the metadata "
                f"{str(prompt.metadata)[:200]}: widen a `when`, or add a scorer without one"
            )
        for scorer in recipe.rewards.scorers:
            if scorer.kind in FROM_PROMPT and fits(prompt, scorer.when):
                lack = FROM_PROMPT[scorer.kind](prompt, scorer.options)
                if lack is not None:
                    raise InputError(f"rewards.scorers: {scorer.name}: {lack}")


def _questions_lack(prompt: Prompt, options: Mapping[str, Any]) -> str | None:
    found = atoms_of(prompt)
    return str(found) if isinstance(found, NoAtoms) else None


def _text_lacks(prompt: Prompt, options: Mapping[str, Any]) -> str | None:
    field = options.get("field", FIELD)
    return why_no_text(prompt, field) if isinstance(field, str) else None  # a wrong option is reported elsewhere


FROM_PROMPT: dict[str, Callable[[Prompt, Mapping[str, Any]], str | None]] = {
    "geneval2": _questions_lack, "ocr": _text_lacks,
}  # fmt: skip
"""Kind of scorers that find in a prompt what an image should show -> a function. It takes a prompt and the options of
the scorer, and says what the prompt lacks."""


def scorer_problems(recipe: Recipe) -> list[str]:
    """Check the scorers of the recipe for problems that do not depend on the machine: invalid options, and secrets
    (such as a key) that are written in the recipe. Return one message for each problem."""
    problems = []
    for scorer in recipe.rewards.scorers:
        where = f"rewards.scorers: {scorer.name}"
        secret = [f"options.{key}" for key, value in scorer.options.items() if redact({key: value}) != {key: value}]
        addresses = {"base_url": scorer.base_url or "", "api_key_env": scorer.api_key_env or ""}
        secret += [setting for setting, value in addresses.items() if redact_text(value) != value]
        problems += [
            f"{where}: {setting} holds what looks like a secret, and a recipe is copied into runs and logs: keep it in "
            "an environment variable (judge: api_key_env names it)"
            for setting in secret
        ]
        try:
            try_scorer(recipe, scorer)
        except InputError as error:
            problems += [f"{where}: {error}"] if not secret else []  # the message could show the secret
        except ScorerUnavailable:
            continue  # depends on the machine, so machine_problems reports it
    return problems


def try_scorer(recipe: Recipe, scorer: ScorerRecipe) -> None:
    """Check a scorer without loading its model: can its code be imported, are its options valid, and are the address
    and the key of a judge usable?

    Raises InputError for wrong settings, and ScorerUnavailable if the scorer cannot work on this machine.
    """
    spec = ScorerSpec.from_dict(spec_of(recipe, scorer, Path("scorers"), "http://127.0.0.1:1/v1"))
    make = check_spec(spec)
    if scorer.kind in QUICK:
        make(name=spec.name, **typed_options(spec, make))


def ask_server(recipe: Recipe, scorer: ScorerRecipe) -> None:
    """Send one test question to a judge, or to the server of a remote scorer, with a short timeout. So a server that
    does not work is found before training.

    Raises ScorerUnavailable if the server does not answer.
    """
    options = spec_of(recipe, scorer, Path("scorers"))["options"]
    patience: dict[str, Any] = {"timeout": min(scorer.timeout_s, JUDGE_PATIENCE_S), "retries": 0}
    if isinstance(options.get("splitter"), dict):
        patience["splitter"] = options["splitter"] | {"timeout": JUDGE_PATIENCE_S, "retries": 0}
    server = scorer_constructor(scorer.kind, scorer.of)(**options | patience, name=scorer.name)
    assert isinstance(server, JudgeScorer | AtomicScorer | RemoteScorer)
    server.check()


def recipe_problems(recipe: Recipe) -> list[str]:
    """Check the scorers, the stages and the task of a recipe for problems that do not depend on the machine. Return one
    message for each problem."""
    return scorer_problems(recipe) + stage_problems(recipe) + task_problems(recipe)


def stage_problems(recipe: Recipe) -> list[str]:
    """Check the setting `budget_minutes`, which maps names of stages to minutes. Return a message for each key that is
    not the name of a stage."""
    unknown = [stage for stage in recipe.budget_minutes if stage not in NAMES]
    return [f"budget_minutes: unknown stage {stage!r}{nearest(stage, NAMES)}" for stage in unknown]


def task_problems(recipe: Recipe) -> list[str]:
    """Check whether the task gives what the recipe needs: prompts of the split that is evaluated, thresholds of the
    gate, and training rows for SFT. Return one message for each problem."""
    task = task_of(recipe)
    problems = task.problems(recipe)
    held_out = [split for split in task.splits if split != "train"]
    if recipe.evaluation.split not in held_out:
        problems.append(
            f"evaluation.split {recipe.evaluation.split!r}: choose one of {', '.join(held_out)}"
        )
    problems += _of_split(recipe, task)
    gate = [recipe.gate.first_accuracy, recipe.gate.damage, recipe.gate.margin]
    if task.thresholds is None and None in gate and any(threshold is not None for threshold in gate):
        problems.append(
            f"gate: the task {recipe.task} has no thresholds of its own: give all of first_accuracy, damage, margin"
        )
    problems += _of_rows(recipe, task) if isinstance(task, World) else _of_no_world(recipe)
    return problems


def _of_split(recipe: Recipe, task: Task) -> list[str]:
    """Check the prompts of evaluation and of RL that the task gives. Return one message for each problem. Prompts that
    cannot be read are reported elsewhere."""
    split, rl, problems = recipe.evaluation.split, recipe.rl, []
    if split in task.splits and split != "test" and _prompts(task, split) == []:  # the task itself reports test
        problems.append(f"evaluation.split {split}: the task has no prompts of this split")
    routed = any(scorer.when for scorer in recipe.rewards.scorers)
    routed = routed or any(scorer.kind in FROM_PROMPT for scorer in recipe.rewards.scorers)
    asks = rl is not None and rl.prompts is None and rl.rollouts is None and (rl.prompt_mix or routed)
    if rl is not None and asks and (prompts := _prompts(task, "train")):
        try:
            PromptOrder(prompts, recipe.rl_seed, rl.prompt_mix)
            require_reward(recipe, prompts)
        except InputError as error:
            problems.append(str(error))
    return problems


def _prompts(task: Task, split: str) -> list[Prompt] | None:
    """Return the prompts of a split, or None if they cannot be read."""
    try:
        return task.prompts(split)
    except (InputError, OSError):
        return None


def _of_rows(recipe: Recipe, world: World) -> list[str]:
    """Check whether the task (`world`) makes the rows of every SFT source in the recipe, and whether its texts say the
    stop phrase. Return one message for each problem. If the recipe names a folder of SFT data, nothing is checked."""
    problems = []
    if recipe.sft is None or recipe.sft.data is not None:
        return problems
    stops = StopPhrase(recipe.sampling.stop_phrase)
    if not any(stops(text) for text in world.texts()):
        problems.append(
            f"sampling.stop_phrase {stops.phrase!r}: no text of the task {recipe.task} says it, so no reflection would "
            "end a trajectory: leave it out, or name a folder of your own rows in sft.data"
        )
    made = set(world.rows)
    for name, stage in recipe.sft.stages.items():
        if name == "stage2" and recipe.sft.stage1 is not None and world.own_images:
            made |= {f"{OWN_ROWS}/{mode}" for mode in world.own_modes}
        made |= {OWN_REFINED} if recipe.sft.own is not None else set()
        problems += [
            f"sft.{name}.sources.{index}.folder {source.folder!r} is not made by the task at that stage; there are "
            f"{', '.join(sorted(made))}"
            for index, source in enumerate(stage.sources) if source.folder not in made
        ]  # fmt: skip
    return problems


def _of_no_world(recipe: Recipe) -> list[str]:
    """Check a recipe whose task is not a `World`. A `World` can make a model, SFT data, small scorers and a judge
    itself. For any other task the recipe must name them. Return one message for each missing setting."""
    problems = []
    if recipe.init_from is None:
        problems.append(f"init_from: the task {recipe.task} has no pictures to train a model from scratch on: name one")
    if recipe.sft is not None and recipe.sft.data is None:
        problems.append(f"sft.data: the task {recipe.task} makes no rows: name a folder of parquet")
    for scorer in recipe.rewards.scorers:
        if scorer.kind in OPEN_CLIP_KINDS and scorer.path is None and "path" not in scorer.options:
            problems.append(f"rewards.scorers: {scorer.name}: path: the task {recipe.task} can train no small scorers")
        if scorer.kind == "judge" and scorer.base_url is None:
            problems.append(f"rewards.scorers: {scorer.name}: base_url: the task {recipe.task} has no embedded judge")
    return problems


def require_machine(recipe: Recipe) -> None:
    refuse(recipe, recipe_problems(recipe) or machine_problems(recipe))


def refuse(recipe: Recipe, problems: list[str]) -> None:
    if problems:
        raise RecipeError(f"{recipe.name}: {len(problems)} problem(s)\n" + "\n".join(f"  {p}" for p in problems))

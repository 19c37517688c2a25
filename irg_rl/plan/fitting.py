"""Finds a small set of settings with which a recipe runs on a given number of GPUs (cards) of a given memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from irg_rl.config import Recipe, RecipeError
from irg_rl.errors import InputError
from irg_rl.plan.advice import Load, candidates
from irg_rl.plan.costs import Plan

GPUS_PER_MACHINE = 8


@dataclass(frozen=True)
class Fit:
    """What was found. `overrides` are the changed settings, written as name=value. `plan` has the costs with them.
    `crowded` names the processes that do not fit even so; it is empty if the recipe fits."""

    overrides: list[str]
    plan: Plan
    crowded: list[str]


def gpus_of(recipe: Recipe) -> dict[str, int]:
    """Return how many GPUs each part of a run takes: stage -> number. The parts run one after the other, so the run
    takes the largest number. On the CPU the dict is empty."""
    if recipe.engine.device != "cuda":
        return {}
    return {stage: ceil(count / recipe.engine.processes_per_gpu) for stage, count in recipe.model_processes.items()}


def machines_of(gpus: int) -> int:
    """Return how many machines of eight GPUs have this number of GPUs."""
    return ceil(gpus / GPUS_PER_MACHINE)


def fit(load: Load, gpus: int, card: float) -> Fit:
    """Search for the mildest settings with which a recipe fits `gpus` GPUs with `card` bytes each.

    First the numbers of processes are lowered to the number of GPUs. Then, for each process that needs too much
    memory, settings are changed one after the other until it fits. Settings that do not change the result of a run
    come first (see `candidates`). At the end, each change without which the recipe fits too is taken back. The answer
    is not always the smallest one, because changes are tried in one order only.

    `load` returns the recipe with some settings changed. The changes are texts of the form name=value.
    """
    chosen = _fewer_processes(load(()), gpus)
    plan = Plan(load(_words(chosen)))
    for name in plan.place_names:
        room = card * plan.card_share(name)
        for setting, values in candidates(plan.recipe, name):
            if plan.place(name).peak <= room:
                break
            chosen, plan = _mildest(load, chosen, plan, (setting, values), name, gpus, room)
    for setting in list(chosen):
        rest = {key: value for key, value in chosen.items() if key != setting}
        if (without := _plan(load, rest, gpus)) is not None and not _crowded(without, card):
            chosen, plan = rest, without
    return Fit(_words(chosen), plan, _crowded(plan, card))


def _fewer_processes(recipe: Recipe, gpus: int) -> dict[str, str]:
    """Return settings that lower the numbers of processes so that `gpus` GPUs have room for them. In RL, half of the
    GPUs get rollout actors. If there is only one GPU, one learner rank and one rollout actor share it."""
    found: dict[str, str] = {}
    room = gpus * recipe.engine.processes_per_gpu
    if recipe.model_processes.get("rl", 0) > room:
        rl = recipe.require_rl()
        actors = 0 if rl.rollouts is not None else max(1, room // 2)
        ranks = max(number for number in range(1, max(1, room - actors) + 1) if rl.groups % number == 0)
        found = {"engine.learner_ranks": str(ranks)}
        if actors:
            found["engine.rollout_actors"] = str(actors)
        if ranks + actors > room:
            found["engine.gpu_share"] = "0.5"
    if any(count > room for stage, count in recipe.model_processes.items() if stage != "rl"):
        found["sft.learner_ranks"] = str(room)
    return found


def _mildest(
    load: Load, chosen: dict[str, str], plan: Plan, candidate: tuple[str, Sequence], name: str, gpus: int, room: float
) -> tuple[dict[str, str], Plan]:
    """Return the settings `chosen` with one more setting, and their plan. The setting gets the mildest value with which
    the process `name` fits into `room` bytes. If it does not fit with any value, it gets the value with the smallest
    memory. If no value saves memory, nothing is changed."""
    setting, values = candidate
    best, now = (chosen, plan), plan.place(name).peak
    for value in values:
        more = chosen | {setting: str(value)}
        changed = _plan(load, more, gpus)
        if changed is None or (peak := _peak(changed, name)) is None:
            continue
        if peak < now:
            best, now = (more, changed), peak
        if peak <= room:
            break
    return best


def _plan(load: Load, chosen: dict[str, str], gpus: int) -> Plan | None:
    """Return the plan of the recipe with these settings, or None if the settings are invalid or need more GPUs."""
    try:
        plan = Plan(load(_words(chosen)))
    except RecipeError:
        return None
    return plan if max(gpus_of(plan.recipe).values(), default=0) <= gpus else None


def _peak(plan: Plan, name: str) -> float | None:
    """Return the peak memory of a process in bytes. Return None if a trajectory is longer than the pack."""
    try:
        return plan.place(name).peak
    except InputError:
        return None


def _crowded(plan: Plan, card: float) -> list[str]:
    peaks = {name: _peak(plan, name) for name in plan.place_names}
    return [name for name, peak in peaks.items() if peak is None or peak > card * plan.card_share(name)]


def _words(chosen: dict[str, str]) -> list[str]:
    return [f"{setting}={value}" for setting, value in chosen.items()]

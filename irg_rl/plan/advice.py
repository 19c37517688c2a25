"""Finds changes of single settings of a recipe. Each change alone makes a process (for example the learner) fit into
the memory of its card (GPU). For every candidate, the memory is estimated again with the changed setting."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from irg_rl.config import Recipe, RecipeError
from irg_rl.errors import InputError
from irg_rl.plan.costs import EVALUATION, LEARNER, ROLLOUT, Plan

Load = Callable[[Sequence[str]], Recipe]
"""A function that loads the recipe with some settings changed. It takes a list of texts of the form name=value."""


@dataclass(frozen=True)
class Turn:
    """One setting of the recipe with a changed value, and its effect. `override` is the changed setting, written as
    name=value. `peak` is the peak memory, in bytes, that a process of the run needs with this change."""

    override: str
    peak: int


@dataclass(frozen=True)
class Advice:
    """Advice on how to make one kind of process fit into memory. `place` is the name of the kind of process. `fitting`
    lists changed settings with which the process fits. If the process fits with several values of one setting, only the
    mildest one (the smallest change) is listed. `nearest` is the changed setting with the smallest peak memory, or None
    if no setting reduces the peak."""

    place: str
    fitting: list[Turn]
    nearest: Turn | None


def advise(load: Load, plan: Plan, card: float) -> list[Advice]:
    """Return advice for every kind of process (for example the learner) that does not fit into its memory. This is
    `card`, the memory of one GPU in bytes, or the share of it that the process has. The peak memory of each process is
    taken from `plan`. `load` is a function that loads the recipe with some settings changed. The changes are texts of
    the form name=value."""
    rooms = [(place, card * plan.card_share(place.name)) for place in plan.places]
    return [_advice(load, plan, place.name, place.peak, room) for place, room in rooms if place.peak > room]


def _advice(load: Load, plan: Plan, name: str, now: int, card: float) -> Advice:
    fitting: list[Turn] = []
    tried: list[Turn] = []
    for setting, values in candidates(plan.recipe, name):
        for value in values:
            override = f"{setting}={value}"
            try:
                turn = Turn(override, Plan(load([override])).place(name).peak)
            except (RecipeError, InputError):
                continue  # this value is invalid together with another setting
            tried.append(turn)
            if turn.peak <= card:
                fitting.append(turn)
                break
    nearest = min(tried, key=lambda turn: turn.peak, default=None)
    return Advice(name, fitting, nearest if nearest is not None and nearest.peak < now else None)


def candidates(recipe: Recipe, place: str) -> Iterator[tuple[str, list]]:
    """Yield pairs (name of a setting, list of values to try) for settings that reduce the memory of one kind of
    process. `place` is the name of this kind of process, for example "rl learner". The values of a setting go from the
    smallest change to the largest. Settings that do not change the result of a run come first."""
    sampling, engine = recipe.sampling, recipe.engine
    if engine.device == "cuda" and engine.dtype == "fp32":
        yield "engine.dtype", ["bf16"]
    trains = place not in (ROLLOUT, EVALUATION)
    if not trains and recipe.scores_on_gpu:
        yield "rewards.device", ["cpu"]
    if trains:
        if not engine.activation_checkpointing:
            yield "engine.activation_checkpointing", ["true"]
        of_rl = place == LEARNER
        stage = engine.zero_stage if of_rl else recipe.sft_zero_stage
        yield "engine.zero_stage" if of_rl else "sft.zero_stage", list(range(stage + 1, 4))
        if engine.device == "cuda":
            own = not of_rl and recipe.require_sft().learner_ranks is not None
            setting = "sft.learner_ranks" if own else "engine.learner_ranks"
            ranks = recipe.most_sft_ranks if own else engine.learner_ranks
            yield setting, [ranks * factor for factor in (2, 4, 8)]
    if place == LEARNER:
        rl = recipe.require_rl()
        if rl.probe_every:
            yield "rl.probe_every", [0]
        yield "rl.max_pack_tokens", halves(rl.max_pack_tokens, 256)
        if min(rl.kl_text, rl.kl_image) == 0:  # with both KL terms above 0, setting one to 0 frees no memory
            yield from ((f"rl.{kl}", [0]) for kl in ("kl_text", "kl_image") if vars(rl)[kl] > 0)
    elif place == ROLLOUT:
        yield "rl.groups_per_batch", halves(recipe.require_rl().largest_batch, 1)
        yield "rl.group_size", halves(recipe.require_rl().group_size, 2)
        yield "sampling.max_text_tokens", halves(sampling.max_text_tokens, 16)
    elif place == EVALUATION:
        yield "evaluation.batch_size", halves(recipe.evaluation.batch_size, 1)
    else:
        name = place.split()[1]
        yield f"sft.{name}.tokens_per_pack", halves(recipe.require_sft().stages[name].tokens_per_pack, 256)
    if trains:
        section = "rl" if place == LEARNER else f"sft.{place.split()[1]}"
        if recipe.trained[section].lora is None:
            yield f"{section}.lora", ["{rank: 64, alpha: 128}"]
    yield "sampling.turns", list(range(sampling.turns - 1, 0, -1))
    height, width = sampling.image_size
    yield "sampling.image_size", [f"[{height // part}, {width // part}]" for part in (2, 4)]


def halves(value: int, smallest: int) -> list[int]:
    """Return value / 2, value / 4, and so on, as long as the result is not below `smallest`."""
    found = []
    while (value := value // 2) >= smallest:
        found.append(value)
    return found

"""`irg-rl plan`: estimates how much memory and time a recipe needs, and prints this as tables."""

import shlex
from collections.abc import Iterator, Sequence

from rich.table import Table

from irg_rl.cluster.shared_memory import free_shared_memory, in_words
from irg_rl.config import SCORER_KINDS, Recipe, ScorerRecipe, load_recipe
from irg_rl.config.rewards import OPEN_CLIP_KINDS, WITH_MODEL
from irg_rl.plan.advice import Advice, advise
from irg_rl.plan.costs import Plan, ProcessKind, Rates
from irg_rl.plan.fitting import GPUS_PER_MACHINE, Fit, fit, gpus_of, machines_of
from irg_rl.plan.main_memory import machine_peak
from irg_rl.plan.scorers import scorer_memory
from irg_rl.plan.training_memory import Moment
from irg_rl.plan.worst_case import CHARACTERS_PER_TOKEN, PROMPT_TOKENS, trained_steps
from rollouts.traffic import store_bytes

GIB = 2**30


def plan_recipe(
    path: str,
    overrides: list[str],
    card_gib: float,
    tflops: float | None = None,
    gbps: float | None = None,
    gpus: int | None = None,
) -> Iterator[Table | str]:
    """Yield what `irg-rl plan` prints: tables and lines of text about the memory and the time that a recipe needs.
    `path` is a file or the name of a shipped recipe, and `overrides` replace settings of the recipe. `card_gib` is the
    memory of one GPU in GiB. `tflops` is its speed in TFLOP/s, and `gbps` its memory bandwidth in GB/s. If one of these
    two is None, a typical value is used for it. If `gpus` is given, the last line is a command that runs the recipe on
    this many GPUs. Raises RecipeError with every problem of the settings. Raises InputError if a trajectory is longer
    than a pack (the input of one forward pass)."""
    recipe = load_recipe(path, overrides)
    plan = Plan(recipe)
    yield parameter_table(plan)
    yield from memory_tables(plan, card_gib)
    if any(place.copies for place in plan.places):
        yield main_memory_table(plan)
    if recipe.rl is not None:
        size = recipe.engine.object_store_mb
        yield in_words(store_bytes(recipe) if size is None else size << 20, free_shared_memory())

    def load(more: Sequence[str]) -> Recipe:
        return load_recipe(path, [*overrides, *more])

    advice = advise(load, plan, card_gib * GIB)
    yield advice_table(advice, card_gib) if advice else f"every process fits a card of {card_gib:g} GiB"
    if recipe.rewards.scorers:
        yield scorer_table(recipe)
    yield forward_table(plan)
    assumed = Rates.assumed(recipe.engine.device)
    yield time_table(plan, Rates(tflops or assumed.tflops, gbps or assumed.gbps))
    yield (
        f"assumptions: prompts of {PROMPT_TOKENS} tokens, {CHARACTERS_PER_TOKEN} letters of system text per "
        "token, texts at sampling.max_text_tokens, every turn drawn"
    )
    yield from gpu_lines(recipe)
    if gpus is not None:
        yield from fit_lines(path, overrides, fit(load, gpus, card_gib * GIB), gpus, card_gib)


def gpu_lines(recipe: Recipe) -> Iterator[str]:
    """Yield a line that says how many GPUs and machines the recipe takes. On the CPU there is no line."""
    if needed := gpus_of(recipe):
        stages = ", ".join(f"{stage} {count}" for stage, count in needed.items())
        yield f"GPUs: {stages}; the run takes {_machines(max(needed.values()))}"


def fit_lines(path: str, overrides: Sequence[str], found: Fit, gpus: int, card_gib: float) -> Iterator[str]:
    """Yield lines that say with which settings the recipe runs on `gpus` GPUs. The last line is a command to paste."""
    there = f"{gpus} GPU{'s' * (gpus != 1)} of {card_gib:g} GiB"
    if found.plan.device != "cuda":
        yield f"{found.plan.recipe.name} runs on the CPU: set engine.device=cuda to plan for {there}"
        return
    if found.crowded:
        nearest = f"; nearest: {' '.join(map(shlex.quote, found.overrides))}" if found.overrides else ""
        yield f"{there}: no settings were found with which these fit: {', '.join(found.crowded)}{nearest}"
        return
    yield f"{there}: fits {'with the mildest changes that were found' if found.overrides else 'as it is'}:"
    yield "  " + shlex.join(["irg-rl", "train", path, *overrides, *found.overrides])


def parameter_table(plan: Plan) -> Table:
    table = Table("parameters, millions", title=f"{plan.recipe.name}: parameters")
    trained = plan.parameters
    for name in ("all", *trained):
        table.add_column(name if name == "all" else f"trained: {name}", justify="right")
    for part, count in plan.parts.items():
        table.add_row(part, _millions(count), *(_millions(found.trained[part]) for found in trained.values()))
    table.add_row("vae", _millions(plan.autoencoder), *("0.0" for _ in trained))
    total = sum(plan.parts.values()) + plan.autoencoder
    table.add_row("total", _millions(total), *(_millions(found.trained_total) for found in trained.values()))
    return table


def memory_tables(plan: Plan, card_gib: float) -> Iterator[Table]:
    unit = "GPU" if plan.device == "cuda" else "process"
    for place in plan.places:
        count = f"{place.processes} of them" if place.processes > 1 else "one process"
        table = Table("part", "GiB", "when", title=f"{place.name} ({count}): memory per {unit}", caption=place.note)
        table.columns[1].justify = "right"
        for component in place.components:
            table.add_row(component.name, _gib(component.bytes), _WHEN[component.moment])
        table.add_section()
        table.add_row("peak", _gib(place.peak), _verdict(place, card_gib * plan.card_share(place.name)))
        yield table


def main_memory_table(plan: Plan) -> Table:
    """Return a table of copies of the weights. The training processes keep these copies in main memory (the memory of
    the machine, not of the GPU). Each row shows a copy: its size, how many processes keep it, and when it exists."""
    table = Table("process", "copy", "GiB each", "processes", "when", title="copies of weights in main memory, fp32")
    for column in table.columns[2:4]:
        column.justify = "right"
    for place in plan.places:
        for copy in place.copies:
            table.add_row(place.name, copy.name, _gib(copy.bytes), str(copy.ranks), _WHEN[copy.moment])
        if place.copies:
            table.add_row(place.name, "peak of the machine", _gib(machine_peak(place.copies)), "all", "")
            table.add_section()
    return table


def advice_table(advice: list[Advice], card_gib: float) -> Table:
    table = Table("process", "setting", "peak, GiB", title=f"settings that make it fit a card of {card_gib:g} GiB")
    table.columns[2].justify = "right"
    for found in advice:
        for turn in found.fitting:
            table.add_row(found.place, turn.override, _gib(turn.peak))
        if not found.fitting and found.nearest is not None:
            table.add_row(found.place, f"none; nearest: {found.nearest.override}", _gib(found.nearest.peak))
        elif not found.fitting:
            table.add_row(found.place, "none", "")
    return table


def scorer_table(recipe: Recipe) -> Table:
    table = Table("scorer", "where", "weights, GiB", title="scorers")
    table.columns[2].justify = "right"
    for scorer in recipe.rewards.scorers:
        table.add_row(scorer.name, *_scorer(recipe, scorer))
    return table


def forward_table(plan: Plan) -> Table:
    recipe = plan.recipe
    table = Table("forwards of one trajectory", "sampled", "evaluated", title="what is computed")
    for column in table.columns[1:]:
        column.justify = "right"
    sampled, evaluated = plan.sampled, plan.evaluated
    table.add_row("turns", str(recipe.sampling.turns), str(recipe.evaluation.turns))
    table.add_row("text tokens", f"{sampled.text_tokens:,}", f"{evaluated.text_tokens:,}")
    table.add_row("denoising steps x branches", f"{sampled.velocities:,}", f"{evaluated.velocities:,}")
    table.add_row("prompt and images into the context", f"{sampled.prefills:,}", f"{evaluated.prefills:,}")
    if recipe.rl is None:
        return table
    table.add_section()
    table.add_row("trained denoising steps", f"{trained_steps(recipe) * recipe.sampling.turns:,}", "")
    packs = len(plan.replays)
    table.add_row("replay packs per rank and minibatch", f"{packs:,}", "")
    table.add_row("forwards per replay pack", " + ".join(plan.replay_forwards), "")
    table.add_row("weight sync, GB per publication", f"{plan.sync / 1e9:,.3f}", "")
    table.add_row("read by rollout actors, GB", f"{plan.sync * recipe.engine.rollout_actors / 1e9:,.3f}", "")
    return table


def time_table(plan: Plan, rates: Rates) -> Table:
    title = f"time at {rates.tflops:g} TFLOP/s and {rates.gbps:g} GB/s (assumed, not measured)"
    caption = "without evaluations, scorers, autoencoder, data, checkpoints, and work outside of matrix products"
    table = Table("part", "pieces", "TFLOP each", "GB read each", "hours", title=title, caption=caption)
    for column in table.columns[1:]:
        column.justify = "right"
    total = 0.0
    for part in plan.stretches:
        hours = part.seconds(rates) / 3600
        total += hours
        table.add_row(
            part.name, f"{part.count:,}", f"{part.flops / 1e12:,.4g}", f"{part.read / 1e9:,.4g}", f"{hours:,.2f}"
        )
    table.add_section()
    table.add_row("all", "", "", "", f"{total:,.2f}")
    return table


_WHEN = {
    Moment.ALWAYS: "", Moment.BACKWARD: "forward and backward", Moment.STEP: "optimizer step",
    Moment.PUBLISH: "publication", Moment.SAVE: "checkpoint",
}  # fmt: skip


def _verdict(place: ProcessKind, card_gib: float) -> str:
    return "fits" if place.peak <= card_gib * GIB else f"more than {card_gib:g} GiB"


def _scorer(recipe: Recipe, scorer: ScorerRecipe) -> tuple[str, str]:
    if scorer.kind == "judge":
        return scorer.base_url or "a process of the run, no model", "elsewhere" if scorer.base_url else "0"
    if scorer.kind == "remote":
        return scorer.base_url or "a server", "elsewhere"
    if scorer.kind in SCORER_KINDS and scorer.kind not in WITH_MODEL:
        return "critic, no model", "0"
    device = recipe.scorer_device(scorer)
    if scorer.kind not in OPEN_CLIP_KINDS:
        return f"critic, {device}", "unknown"
    if scorer.options.get("path", scorer.path) is None:
        return f"critic, {device}", "trained by the run"
    found = scorer_memory(scorer)
    return f"critic, {device}", "unknown" if found is None else _gib(found.weights)


def _gib(size: float) -> str:
    """Convert a size in bytes to text in GiB, with two decimals, or with four if it is below 0.1 GiB."""
    gib = size / GIB
    return f"{gib:,.2f}" if gib >= 0.1 else f"{gib:.4f}"


def _machines(gpus: int) -> str:
    machines = machines_of(gpus)
    return f"{gpus} GPU{'s' * (gpus != 1)}, {machines} machine{'s' * (machines != 1)} of {GPUS_PER_MACHINE}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}"

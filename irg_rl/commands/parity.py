"""`irg-rl parity`: measures whether the learner computes the same log-probabilities as the sampler (invariant 1).

First, trajectories are sampled as in RL, but every denoising step is stochastic, so that all steps can be measured.
Then the learner computes the log-probability of every token and every denoising step again, in a forward pass over
packed sequences. Ideally, the learner's value is equal to the sampler's value. The importance ratio is the exponential
of the difference.

The table has one row for each combination of these choices:
* 1 to n images per trajectory
* sampling one by one, or in batches
* the model itself, or the model with LoRA adapters
* packs that contain whole trajectories, or packs so small that trajectories are cut

If the recipe has forks, several continuations are sampled from the same beginning of a trajectory. In batches, the
continuations of one beginning are sampled together. One by one, each continuation is sampled alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from irg_rl.algorithms.base import CLIP_IMAGE, algorithm_of
from irg_rl.commands.generate import load_here, model_folder, recipe_of
from irg_rl.config import LoraRecipe, NoiseRecipe, Recipe, RLRecipe
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import write_json
from irg_rl.errors import InputError
from irg_rl.learner.lora import add_adapters, is_adapter
from irg_rl.learner.policy import sampling_law
from irg_rl.learner.ratio_check import LogprobDifference, RatioError, check
from irg_rl.learner.replay import Replay
from irg_rl.model.folder import Folder
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput, UnifiedModel
from irg_rl.prompts import read_prompts
from irg_rl.task import task_of
from irg_rl.trajectory import Modality, Prompt, Trajectory
from rollouts.request import Request
from rollouts.sampler import Sampler

BATCHES = (1, 16)
FULL, LORA = "full", "lora"
WHOLE, SPLIT = "whole", "split"
ADAPTER_SCALE = 0.02
"""Standard deviation of the random weights in the second matrices of the LoRA adapters. Usually these matrices start at
zero. Then the adapters would have no effect, and nothing could be measured."""


@dataclass(frozen=True)
class Case:
    """The result of the measurement for one combination of four choices:
    * `weights`: with or without LoRA
    * `turns`: the number of images per trajectory
    * `batch`: the batch size
    * `packs`: whether a pack (input of one forward pass) holds whole trajectories or single turns of them

    `table` has the absolute differences between the log-probabilities of learner and sampler. It has one entry per
    turn, modality (text or image) and denoising step.
    """

    weights: str
    turns: int
    batch: int
    packs: str
    table: list[LogprobDifference]

    def record(self) -> dict[str, Any]:
        rows = [difference.row() | {"where": difference.where} for difference in self.table]
        return {"weights": self.weights, "turns": self.turns, "batch": self.batch, "packs": self.packs, "places": rows}

    def worst(self, modality: Modality) -> LogprobDifference | None:
        """Return the worst entry of `table` for this modality (text or image): the entry with the largest ratio of
        difference to limit. Return None if the table has no entries for the modality."""
        own = [difference for difference in self.table if difference.modality == modality]
        return max(own, key=lambda difference: difference.largest / difference.limit, default=None)


class Forward:
    """The forward pass of the learner, without an optimizer and without the training engine's processes. It has the
    attributes and methods that the function `check` of irg_rl.learner.ratio_check uses."""

    def __init__(self, model: UnifiedModel, context_grad: str) -> None:
        self.model, self.context_grad = model, context_grad
        self.device = model.latent_pos_embed.pos_embed.device

    @torch.no_grad()
    def evaluate(self, packs: Sequence[Pack], read: Callable[[ModelOutput, int], Any]) -> list[Any]:
        return [
            read(self.model(pack.to(self.device), context_grad=self.context_grad), index)
            for index, pack in enumerate(packs)
        ]


def measure_parity(target: Path, prompts: int, turns: int | None, seed: int, out: Path | None) -> None:
    """Measure how much the log-probabilities of learner and sampler differ. Every combination of four choices is
    measured: number of images per trajectory, batch size, with or without LoRA, and whole or cut trajectories in packs.
    Print the results as a table, and write them to the JSON file `out`. If `out` is None, the file is in evaluation/ of
    the run, or in the current folder if there is no run. `target` is a run or a model folder. `turns` is the largest
    number of images; None means the number in the recipe.

    Raises RatioError if the model is in fp32 and a difference is above its limit. The message names the largest
    difference.
    """
    folder = model_folder(target).resolve()
    recipe = recipe_of(folder)
    most = turns or recipe.sampling.turns
    requests = parity_requests(recipe, parity_prompts(folder, recipe, prompts), seed)
    cases: list[Case] = []
    with bar(f"parity of {folder.name}", 2 * most * len(BATCHES)) as progress:
        for case in parity_cases(folder, recipe, requests, most, seed):
            cases.append(case)
            if case.packs == SPLIT:
                progress.advance(note=f"{case.weights}, {case.turns} turns, batches of {case.batch}")
    console.print(as_table(cases))
    content = {
        "kind": "parity", "model": str(folder), "recipe": recipe.name, "digest": recipe.digest(), "seed": seed,
        "dtype": recipe.engine.dtype, "device": recipe.engine.device, "cases": [case.record() for case in cases],
    }  # fmt: skip
    path = out or _place(folder)
    write_json(path, content)
    console.print(f"written: {path}", soft_wrap=True, markup=False)
    _require(cases, recipe)


def parity_prompts(folder: Path, recipe: Recipe, count: int) -> list[Prompt]:
    """Return the first `count` validation prompts of the run that contains the model folder. If the folder is in no
    run, or the run has no validation prompts, return prompts that the task makes."""
    file = folder.parent.parent / "world" / "validation.jsonl"
    there = read_prompts(file) if file.is_file() and file.stat().st_size else task_of(recipe).prompts("validation")
    return there[:count]


def parity_requests(recipe: Recipe, prompts: Sequence[Prompt], seed: int) -> list[Request]:
    """Return one sampling request per trajectory. Usually each prompt gets one trajectory. If the recipe has forks,
    several continuations are sampled from the same beginning, and each continuation is a trajectory of its own. Then
    each prompt gets all continuations of one beginning. Fewer prompts are used, so the number of trajectories stays
    about the same."""
    forks, leaves = (recipe.rl.forks, recipe.rl.leaves) if recipe.rl is not None else ({}, 1)
    some = prompts[: max(len(prompts) // leaves, 1)]
    return [Request(prompt, sample, seed, forks=forks) for prompt in some for sample in range(leaves)]


def parity_cases(folder: Path, recipe: Recipe, requests: list[Request], most: int, seed: int) -> Iterator[Case]:
    """Measure how much the log-probabilities of learner and sampler differ for trajectories with 1 to `most` images.
    Yield one result for each combination of number of images, batch size, weights (with or without LoRA) and size of
    packs. Each combination is measured first with packs that contain whole trajectories, and then with small packs that
    cut trajectories."""
    rl = recipe.rl or RLRecipe()
    clip_image = CLIP_IMAGE if recipe.rl is None else algorithm_of(recipe).clip_image
    noise = (rl.noise or NoiseRecipe()).model_copy(update={"window": "all"})
    for weights in (FULL, LORA):
        parts = load_here(folder, recipe)
        parts.model.eval()
        if weights == LORA:
            _adapt(parts.model, rl.lora or LoraRecipe(rank=4, alpha=8), seed)
        forward = Forward(parts.model, rl.context_grad)
        law = sampling_law(recipe.rl_sampling, noise, recipe.engine.dtype)
        for turns in range(1, most + 1):
            sampling = recipe.rl_sampling.model_copy(update={"turns": turns})
            sampler = Sampler(parts.model, parts.autoencoder, parts.tokenizer, sampling, noise=noise)
            for batch in BATCHES:
                trajectories = sampler.sample(requests, turns, batch)
                for packs, size in _pack_sizes(parts, recipe, trajectories, rl.max_pack_tokens):
                    replays = _replay(parts, recipe, size).packs(trajectories)
                    table = check(forward, replays, trajectories, law, clip_image, strict=False)
                    yield Case(weights, turns, batch, packs, table)


def as_table(cases: Sequence[Case]) -> Table:
    """Return a table with one row per measured combination. Each row shows, for texts and for images separately, the
    largest difference of log-probabilities, its limit, and the mean of all differences."""
    title = "|log ratio|: replayed against sampled log-probabilities"
    table = Table("weights", "turns", "batch", "packs", "text max", "text mean", "image max", "image mean", title=title)
    for case in cases:
        table.add_row(case.weights, str(case.turns), str(case.batch), case.packs, *_cells(case))
    return table


def _cells(case: Case) -> Iterator[str]:
    for modality in (Modality.TEXT, Modality.IMAGE):
        worst = case.worst(modality)
        if worst is None:
            yield from ("-", "-")
            continue
        own = [difference for difference in case.table if difference.modality == modality]
        mean = sum(difference.total for difference in own) / sum(difference.count for difference in own)
        yield f"{worst.largest:.1e} of {worst.limit:.0e}"
        yield f"{mean:.1e}"


def _adapt(model: UnifiedModel, lora: LoraRecipe, seed: int) -> None:
    """Add LoRA adapters with random weights to the model. (New adapters usually start at zero and would have no
    effect.)"""
    add_adapters(model, lora, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if is_adapter(name) and ".lora_B." in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * ADAPTER_SCALE)


def _replay(parts: Folder, recipe: Recipe, size: int) -> Replay:
    model = parts.model
    return Replay(
        model.config, model.special, parts.tokenizer.encode,
        system_prompt=recipe.sampling.system_prompt, max_pack_tokens=size,
    )  # fmt: skip


def _pack_sizes(
    parts: Folder, recipe: Recipe, trajectories: list[Trajectory], whole: int
) -> list[tuple[str, int]]:
    """Return the two sizes of packs to measure, as a list of (name, size in tokens).

    The first size is that of the recipe, so that packs contain whole trajectories. The second is smaller, so that
    trajectories are cut. It is 0.3, 0.4, ... or 0.9 times the length of the longest trajectory: the smallest of these
    sizes with which the replay is possible. Raises InputError if there is no such size.
    """
    longest = max(max(made.pack.lengths) for made in _replay(parts, recipe, whole).packs(trajectories))
    for tenths in range(3, 10):
        size = int(longest) * tenths // 10
        try:
            _replay(parts, recipe, size).packs(trajectories)
        except InputError:
            continue
        return [(WHOLE, whole), (SPLIT, size)]
    raise InputError(f"no pack of less than {longest} tokens holds a context and one denoising step: sample more steps")


def _place(folder: Path) -> Path:
    """Return the path of the JSON file for the results. It is in evaluation/ of the run that contains the model folder,
    or in the current folder if there is no run."""
    run, name = folder.parent.parent, f"parity-{folder.name}.json"
    return run / "evaluation" / name if (run / "recipe.yaml").is_file() else Path(name)


def _require(cases: Sequence[Case], recipe: Recipe) -> None:
    places = [(difference, case) for case in cases for difference in case.table]
    worst, case = max(places, key=lambda pair: pair[0].largest / pair[0].limit)
    if recipe.engine.dtype == "fp32" and worst.exceeds:
        place = f"{case.weights} weights, {case.turns} turns, batches of {case.batch}, {case.packs} packs"
        raise RatioError(f"{place}: {worst.complaint()}")

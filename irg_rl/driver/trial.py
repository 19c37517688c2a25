"""Tries one of everything that a run does, at a small size, before the run begins: a row, a pack, a rollout, a score,
an evaluation, and a save. An error that would end the run after hours is then found in minutes.

The trial uses the recipe's own model folder, data, prompts and scorers, and the code of the run. It makes no run
folder. It does not try training itself (optimizer, several ranks, Ray). `irg-rl plan` says whether training fits.
"""

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from pathlib import Path

import torch

from irg_rl.config import OWN_REFINED, Recipe, ScorerRecipe, adapters_of
from irg_rl.driver.checks import attention_problems, folder_problems, gpu_problems
from irg_rl.driver.critic import CriticSettings
from irg_rl.driver.evaluator import Evaluator
from irg_rl.driver.prepare import load_as
from irg_rl.driver.rl_settings import worker_settings
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import reward_hub
from irg_rl.driver.sft import builder_of, row_encoder
from irg_rl.errors import UserError
from irg_rl.evaluate.suite import REAL
from irg_rl.learner.lora import adapter_size
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.files import read_tensors
from irg_rl.model.folder import Folder
from irg_rl.prompts import read_prompts
from irg_rl.task import task_of
from irg_rl.trajectory import Group, Prompt
from rewards.segments import score_group
from rollouts.noise import group_seed
from rollouts.request import Request
from rollouts.sampler import Sampler
from sft.dataset import Rejections, RowSource
from sft.loss import Counts, sft_loss
from sft.packing import RowLayout
from sft.rows import BrokenRow, decode_row
from sft.stream import PackStream

SAMPLES = 2
"""Smallest number of trajectories in the rollout of the trial, and the number of prompts in its evaluation."""
ROWS = 32
"""How many rows of each source of SFT are read and decoded."""
TEXT_TOKENS = 32
"""Largest number of tokens of a text in the trial."""
POINTS = 4
"""Largest number of time points of an image in the evaluation of the trial. The rollout has those of the recipe,
because they must fit its noise."""
STATE_BYTES = 16
"""Bytes in a checkpoint for each trained number: weights, average and two moments, all in fp32."""


class Outcome(StrEnum):
    WORKS = "works here"
    FAILS = "fails here"
    NOT_TRIED = "not tried here"


@dataclass(frozen=True)
class Tried:
    """One thing that was tried, or why it was not tried. `told` has its facts, its error, or the reason."""

    what: str
    outcome: Outcome
    told: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.what}: {self.told}"


class NotTried(Exception):
    """Raised by a part of the trial that is not possible here, or not in this recipe. The message has the reason."""


def try_everything(recipe: Recipe) -> list[Tried]:
    """Try one of everything that a run of the recipe does. Return one entry for each part. If no part can be tried,
    there is one entry with the reason."""
    if (reason := _obstacle(recipe)) is not None:
        return [Tried(", ".join(_Trial.PARTS), Outcome.NOT_TRIED, reason)]
    torch.set_num_threads(recipe.engine.threads)
    try:
        trial = _Trial(_small(recipe), load_as(recipe, Path(str(recipe.init_from))))
    except (UserError, RuntimeError) as error:  # RuntimeError: the memory of a card
        return [Tried("the model", Outcome.FAILS, _first_line(error))]
    with torch.no_grad():
        return [_tried(what, part, trial) for what, part in _Trial.PARTS.items()]


def _obstacle(recipe: Recipe) -> str | None:
    """Return why nothing can be tried: the recipe has no model folder, or the folder or the machine has a problem."""
    if recipe.init_from is None:
        return "init_from is null, so the run makes its model first"
    folder = Path(recipe.init_from)
    found = [*folder_problems(folder, recipe.model), *gpu_problems(recipe), *attention_problems(recipe)]
    return found[0] if found else None


def _small(recipe: Recipe) -> Recipe:
    """Return the recipe with short texts and a small evaluation. Settings that must fit each other stay as they are."""
    tokens = min(recipe.sampling.max_text_tokens, TEXT_TOKENS)
    points = min(recipe.evaluation.points or recipe.sampling.points, POINTS)
    evaluation = {"prompts": SAMPLES, "turns": 2, "batch_size": SAMPLES, "points": points}
    return recipe.model_copy(update={
        "sampling": recipe.sampling.model_copy(update={"max_text_tokens": tokens}),
        "evaluation": recipe.evaluation.model_copy(update=evaluation),
    })  # fmt: skip


def _tried(what: str, part: "Callable[[_Trial], str]", trial: "_Trial") -> Tried:
    began = time.monotonic()
    try:
        told = part(trial)
    except NotTried as reason:
        return Tried(what, Outcome.NOT_TRIED, str(reason))
    except (UserError, RuntimeError, ValueError, OSError) as error:
        return Tried(what, Outcome.FAILS, _first_line(error))
    return Tried(what, Outcome.WORKS, f"{told}, {time.monotonic() - began:.1f} s")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


class _Trial:
    """The parts of the trial. Each returns facts about what it did. They are called in the order of `PARTS`, because a
    score needs a rollout."""

    def __init__(self, recipe: Recipe, folder: Folder) -> None:
        self.recipe, self.folder, self.task = recipe, folder, task_of(recipe)
        self.group: Group | None = None

    def row(self) -> str:
        """Draw and decode ROWS rows of each source. Raises ValueError if more than half of the rows are broken."""
        found = [source for sources in self._sources().values() for source in sources]
        broken = 0
        for source in found:
            for _ in range(ROWS):
                parts = source.draw()
                try:
                    decode_row(parts)
                except BrokenRow as error:
                    source.rejections.add(source.last, str(error))
            broken += len(source.rejections.seen)
            if len(source.rejections.seen) > ROWS // 2:
                raise ValueError(f"{source.folder}: {len(source.rejections.seen)} of its first rows are broken")
        return f"{ROWS} of each of {len(found)} sources, {broken} broken rows among them"

    def pack(self) -> str:
        folder, told = self.folder, []
        found = self._sources()  # first, because it says why nothing can be tried
        sft = self.recipe.require_sft()
        system = self.recipe.sampling.system_prompt
        ids = folder.tokenizer.encode(system) if system else None
        for name, sources in found.items():
            stage = sft.stages[name]
            made = [s for s in stage.sources if s.folder != OWN_REFINED]
            stage = stage.model_copy(update={"sources": made, "tokens_per_pack": 1})  # mandatory rows alone
            layout = RowLayout(sft.dropout, stage.noise_blocks_by_kind, self.recipe.model.timestep_shift, ids)
            stream = PackStream(stage, sources, row_encoder(folder), layout, lambda: builder_of(folder), 0)
            if (pack := stream.next()) is None:
                raise ValueError(f"sft.{name}: all rows of the first pack are broken")
            output = folder.model(pack.pack.to(folder.model.latent_pos_embed.pos_embed.device))
            terms = {key: float(value) for key, value in sft_loss(output, pack, Counts.of([pack]), 1.0, 1.0).items()}
            if not all(isfinite(term) for term in terms.values()):
                raise ValueError(f"sft.{name}: the loss of the first pack is not finite: {terms}")
            told.append(f"{name} ce {terms['ce']:.3f} mse {terms['mse']:.3f}")
        return "; ".join(told)

    def rollout(self) -> str:
        rl = self.recipe.rl
        if rl is None or rl.rollouts is not None:
            raise NotTried("the recipe does not sample for training")
        settings = worker_settings(self.recipe, str(self.recipe.init_from))
        prompt = self._prompts("train" if rl.prompts is None else rl.prompts)[0]
        sampler = Sampler(
            self.folder.model.eval(), self.folder.autoencoder, self.folder.tokenizer, settings.sampling,
            noise=settings.noise, guidance=settings.training_guidance, record_steps=settings.record_steps,
        )  # fmt: skip
        seed, count = group_seed(settings.seed, 0), max(SAMPLES, rl.leaves)
        drawn = sampler.sample([Request(prompt, n, seed=seed, forks=rl.forks) for n in range(count)])
        self.group = Group(0, prompt, drawn)
        return f"{count} trajectories, {len(self.group.images)} images, {self.group.tokens()} text tokens"

    def score(self) -> str:
        if self.group is None:
            raise NotTried("there is no rollout to score")
        names = [scorer.name for scorer in self.recipe.rewards.scorers if not self._is_trained(scorer)]
        with reward_hub(self.recipe, None, names) as hub:
            if hub is None:
                raise NotTried("the run trains all of its scorers itself, or has none")
            hub.check()
            score_group(self.group, hub)
            failed = [name for name, stats in hub.stats.items() if stats.failed]
            if failed:
                why = hub.scorers[failed[0]].last_error
                raise ValueError(f"no score by {', '.join(failed)} for some of the first images: {why}")
        if len(names) == len(self.recipe.rewards.scorers):
            CriticSettings.of(self.recipe).assign(self.group)
        return ", ".join(names)

    def evaluation(self) -> str:
        recipe, settings = self.recipe, self.recipe.evaluation
        prompts = self._prompts(settings.split)[:SAMPLES]
        if len({prompt.id for prompt in prompts}) < SAMPLES:
            raise ValueError(f"the split {settings.split} has fewer than {SAMPLES} prompts")
        asked = {self.task.verdict_scorer, settings.preference}
        names = [s.name for s in recipe.rewards.scorers if s.name in asked and not self._is_trained(s)]
        with reward_hub(recipe, None, names) as hub:
            measured = Evaluator(Run(Path("trial"), recipe), settings, hub).evaluate(self.folder, "trial", prompts)
            decides = self.task.verdict_scorer
            if hub is not None and decides in names and not measured.evaluation.arms[REAL].known.any():
                raise ValueError(f"no image has a verdict by {decides}: {hub.scorers[decides].last_error}")
        measured.evaluation.summary()
        return f"{len(prompts)} prompts, {', '.join(measured.evaluation.arms)}"

    def save(self) -> str:
        """Save and load the autoencoder where runs are written, and compare the room there with what the run needs."""
        output = Path(self.recipe.output_dir).resolve()
        place = next(folder for folder in (output, *output.parents) if folder.is_dir())
        needed, free = disk_bytes(self.recipe, self.folder), shutil.disk_usage(place).free
        if needed > free:
            raise ValueError(f"{place}: a run writes up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        with tempfile.TemporaryDirectory(dir=place, prefix=".trial-") as folder:
            file = Path(folder) / "ae.safetensors"
            saved = self.folder.autoencoder
            saved.save(file)
            again = Autoencoder(saved.config, self.recipe.model.latent_patch_size)
            again.load_flux_state_dict(read_tensors(file, "cpu", torch.float32), str(file))
        if not all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(saved.parameters(), again.parameters())):
            raise ValueError(f"{place}: what was saved is not what was loaded")
        return f"the autoencoder; a run writes up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"

    PARTS = {
        "a row": row, "a pack": pack, "a rollout": rollout, "a score": score, "an evaluation": evaluation,
        "a save": save,
    }  # fmt: skip

    def _sources(self) -> dict[str, list[RowSource]]:
        """Return, for each stage of SFT, its sources of rows. Sources that the run makes itself are left out. Raises
        NotTried if there are no others."""
        sft = self.recipe.sft
        if sft is None:
            raise NotTried("the recipe has no SFT")
        if sft.data is None:
            raise NotTried("sft.data is null, so the run makes its rows first")
        data = Path(sft.data)
        found = {
            name: [RowSource(data / s.folder, 0, Rejections()) for s in stage.sources if s.folder != OWN_REFINED]
            for name, stage in sft.stages.items()
        }
        if not any(found.values()):
            raise NotTried("the run makes all rows itself")
        for source in itertools.chain.from_iterable(found.values()):
            source.fingerprint = ""  # a trial has no checkpoint, so it need not read all files
        return {name: sources for name, sources in found.items() if sources}

    def _prompts(self, split: str) -> list[Prompt]:
        """Return the prompts of a split of the task, or those of a file. Raises ValueError if there are none."""
        found = self.task.prompts(split) if split in self.task.splits else read_prompts(split)
        if not found:
            raise ValueError(f"{split} has no prompts")
        return found

    def _is_trained(self, scorer: ScorerRecipe) -> bool:
        """Return whether the run trains the model of this scorer itself, so that there is none before the run."""
        return scorer.kind in ("clip", "hps") and scorer.path is None and "path" not in scorer.options


def disk_bytes(recipe: Recipe, folder: Folder) -> int:
    """Return how many bytes a run writes at most for models and checkpoints. Every stage that trains leaves a model
    folder in fp32 and `engine.keep_checkpoints` checkpoints. While a checkpoint is written, there is one more. Data,
    images and dumped rollouts are not counted."""
    model = sum(p.numel() for p in folder.model.parameters())
    autoencoder = sum(p.numel() for p in folder.autoencoder.parameters())
    adapters = [adapters_of(trained) for trained in recipe.trained.values()]
    states = [STATE_BYTES * (model if one is None else adapter_size(folder.model, one)) for one in adapters]
    folders = 4 * (model + autoencoder) * len(states)
    return folders + sum(states) * recipe.engine.keep_checkpoints + max(states, default=0)

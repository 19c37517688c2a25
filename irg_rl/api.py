"""What a notebook needs: sample, score, assign credit and learn in one process, without Ray (docs/python.md).

A recipe holds every setting, so no function takes one. The parts are those of `irg-rl train`: the same sampler,
scorers, credit and learner, and the same numbers for the same seeds.

Letters: H, W height and width of an image in pixels, K images of a trajectory (one a turn).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from irg_rl.algorithms.base import Selection
from irg_rl.algorithms.learner import Learner
from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.critic import CriticSettings
from irg_rl.driver.prepare import write_trained
from irg_rl.driver.rl_settings import learner_settings, worker_settings
from irg_rl.driver.scorers import reward_hub
from irg_rl.errors import InputError
from irg_rl.learner.publish import publish
from irg_rl.model.folder import load_folder
from irg_rl.prompts import read_prompts, require_prompt
from irg_rl.task import task_of
from irg_rl.trajectory import Group, Prompt, score_images
from rewards.segments import score_segments
from rollouts.worker import RolloutWorker

__all__ = ["Policy", "assign_credit", "load_prompts", "load_recipe", "make_learner", "save_model", "score"]


class Policy:
    """The sampler of RL with its own copy of a model.

    >>> policy = irg_rl.Policy("runs/shapes/models/sft2", recipe)
    >>> groups = policy.sample(["a red circle above a blue square"])
    """

    def __init__(self, folder: Path | str, recipe: Recipe) -> None:
        """`folder`: a model folder, of a run or not; its sizes count, not those of the recipe.

        Raises InputError for a broken folder, and for a recipe without `rl`, which says how to sample.
        """
        self.recipe, self._folder, self._sampled = recipe, Path(folder), 0
        settings = worker_settings(recipe, folder)
        self._settings = replace(settings, threads=recipe.engine.threads, lora=None)
        self._worker = RolloutWorker(self._settings)
        first = publish(load_folder(self._folder).model.state_dict().items(), 0)
        self.version, self.digest = self._worker.set_weights(first.arrays, first.version, first.digest)

    def sample(self, prompts: Sequence[Prompt | str]) -> list[Group]:
        """One group of `rl.group_size` trajectories for each prompt, all of it with new random numbers.

        An image is `trajectory.images[k].pixels`, uint8 [H, W, 3]; a text is `trajectory.texts[k].text`. Every
        trajectory carries `version` and `digest` of the weights. Raises InputError for an empty prompt.

        >>> [group] = policy.sample(["three green squares"])
        >>> [t.turns for t in group.trajectories]
        """
        asked = [p if isinstance(p, Prompt) else Prompt(p, require_prompt(p, "sample")) for p in prompts]
        groups = [self.sample_group(self._sampled + number, prompt) for number, prompt in enumerate(asked)]
        self._sampled += len(groups)
        return groups

    def sample_group(self, number: int, prompt: Prompt) -> Group:
        """The group of this number. Number, prompt, `rl.seed` and weights decide all of it.

        >>> group = policy.sample_group(7, prompts[7])
        >>> again = policy.sample_group(7, prompts[7])  # the same pictures
        """
        size = self.recipe.require_rl().group_size
        return self._worker.sample_group(number, prompt, size, iteration=self.version)[1]

    def follow(self, learner: Learner) -> None:
        """Sample with the learner's weights from now on. `version` is then its number of updates.

        With LoRA the learner hands over its adapters alone, so both must have begun with the same folder: InputError.

        >>> policy.follow(learner)
        >>> policy.version, policy.digest[:12]
        """
        lora = learner.settings.lora
        if lora is not None and Path(learner.settings.folder).resolve() != self._folder.resolve():
            raise InputError(f"the learner adapts {learner.settings.folder}, the policy has {self._folder}: use one")
        if lora != self._settings.lora:
            self._settings = replace(self._settings, lora=lora)
            del self._worker  # a GPU may not hold two models
            self._worker = RolloutWorker(self._settings)
        new = learner.publish(learner.updates)
        assert new is not None  # one rank has all of the weights
        self.version, self.digest = self._worker.set_weights(new.arrays, new.version, new.digest)


def load_prompts(recipe: Recipe, split: str = "train") -> list[Prompt]:
    """The prompts of a split: of the recipe's task, or for `train` of the file `rl.prompts` if the recipe names one.

    Raises InputError for a file without prompts and for a split that the task does not have.

    >>> prompts = irg_rl.load_prompts(recipe, "train")
    >>> prompts[0].text
    """
    task, file = task_of(recipe), None if recipe.rl is None else recipe.rl.prompts
    if split not in task.splits:
        raise InputError(f"the task {recipe.task} has no split {split!r}: choose {', '.join(task.splits)}")
    return read_prompts(file) if file is not None and split == "train" else task.prompts(split)


def score(groups: Sequence[Group], recipe: Recipe, run: Path | str | None = None) -> None:
    """Score every image with every scorer of the recipe: sets `trajectory.rewards[name]`, K numbers in the scorer's own
    units, None where it failed. Scorers of reflections and edits set `segment.scores`.

    `run`: the run folder whose small CLIP and HPS are used. The scorers are made anew in every call, so give it many
    groups at once. Raises InputError for a recipe without scorers or for a scorer that needs a run, ScorerUnavailable,
    and TooManyFailures above `rewards.max_failure_share`.

    >>> irg_rl.score(groups, recipe, run="runs/shapes")
    >>> groups[0].trajectories[0].rewards["verifier"]  # one number a turn
    """
    with reward_hub(recipe, None if run is None else Path(run) / "scorers") as hub:
        if hub is None:
            raise InputError(f"recipe {recipe.name}: no rewards.scorers: name one, as {{name: v, kind: verifier}}")
        for group in groups:
            score_images(group.trajectories, hub.score)
            score_segments(group, hub)


def assign_credit(groups: Sequence[Group], recipe: Recipe) -> list[Selection]:
    """Turn rewards into advantages by `rl.credit`, or as `rl.algorithm` does: sets `segment.advantage`, a number
    without a unit, or None for a segment that is not trained.

    Returns one Selection a group: `has_spread` (the rewards tell its samples apart), `empty` (nothing of it is trained)
    and `counts`. Raises InputError for a group that was not scored.

    >>> selections = irg_rl.assign_credit(groups, recipe)
    >>> [segment.advantage for segment in groups[0].segments]
    """
    settings = CriticSettings.of(recipe)
    for group in groups:
        if missing := {name for t in group.trajectories for name in settings.credit.weights if name not in t.rewards}:
            raise InputError(f"group {group.id} has no rewards by {', '.join(sorted(missing))}: call score before")
    return [settings.assign(group) for group in groups]


def make_learner(folder: Path | str, recipe: Recipe) -> Learner:
    """A learner that trains its own copy of a model: `rl.algorithm`, its optimizer and losses, on one rank.

    `learner.train(*groups)` takes one update and returns its metrics by name. The first call also compares the
    log-probabilities of sampler and learner (nats): RatioError where they differ. `learner.check_ratio(*groups)`
    returns that comparison as rows. Raises InputError for a broken folder.

    >>> learner = irg_rl.make_learner("runs/shapes/models/sft2", recipe)
    >>> metrics = learner.train(*groups)
    """
    learner = Learner(replace(learner_settings(recipe, folder), threads=recipe.engine.threads))
    learner.setup()
    return learner


def save_model(learner: Learner, folder: Path | str) -> None:
    """Write the trained weights, averaged if `rl.ema_decay` is set, as a model folder that every command takes.

    >>> irg_rl.save_model(learner, "trained")
    >>> policy = irg_rl.Policy("trained", recipe)
    """
    settings = learner.settings
    write_trained(Path(settings.folder), learner.average(), Path(folder), settings.lora)

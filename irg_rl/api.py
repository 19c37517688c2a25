"""Functions for a notebook. They do the steps of RL (sample, score, assign credit, learn) in one process, without Ray
(docs/python.md).

All settings come from a recipe, so the functions have no arguments for single settings. The functions use the code of
the command `irg-rl train`. With the same seeds, they give the same numbers as this command.

Letters in shapes: H and W are height and width of an image in pixels. K is the number of images of a trajectory, one
per turn.
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
from irg_rl.model.folder import load_unified
from irg_rl.prompts import read_prompts, require_prompt
from irg_rl.task import task_of
from irg_rl.trajectory import Group, Prompt
from rewards.segments import score_group
from rollouts.worker import RolloutWorker

__all__ = ["Policy", "assign_credit", "load_prompts", "load_recipe", "make_learner", "save_model", "score"]


class Policy:
    """The sampler of RL with its own copy of a model.

    >>> policy = irg_rl.Policy("runs/shapes/models/sft2", recipe)
    >>> groups = policy.sample(["a red circle above a blue square"])
    """

    def __init__(self, folder: Path | str, recipe: Recipe) -> None:
        """Load the model in `folder`, which may be inside or outside of a run. The sizes of the model come from the
        folder, not from the recipe.

        Raises InputError if the folder is broken, or if the recipe has no section `rl`, which has the settings of
        sampling.
        """
        self.recipe, self._folder, self._sampled = recipe, Path(folder), 0
        settings = worker_settings(recipe, folder)
        self._settings = replace(settings, threads=recipe.engine.threads, lora=None)
        self._worker = RolloutWorker(self._settings)
        model, _ = load_unified(self._folder)
        first = publish(model.state_dict().items(), 0)
        self.version, self.digest = self._worker.set_weights(first.arrays, first.version, first.digest)

    def sample(self, prompts: Sequence[Prompt | str]) -> list[Group]:
        """Return one group for each prompt. A group has `rl.group_size` trajectories. Each call uses new random
        numbers.

        An image is `trajectory.images[k].pixels`, uint8 [H, W, 3]. A text is `trajectory.texts[k].text`. Every
        trajectory stores the `version` and the `digest` (hash) of the weights that sampled it. Raises InputError for an
        empty prompt.

        >>> [group] = policy.sample(["three green squares"])
        >>> [t.turns for t in group.trajectories]
        """
        asked = [p if isinstance(p, Prompt) else Prompt(p, require_prompt(p, "sample")) for p in prompts]
        groups = [self.sample_group(self._sampled + number, prompt) for number, prompt in enumerate(asked)]
        self._sampled += len(groups)
        return groups

    def sample_group(self, number: int, prompt: Prompt) -> Group:
        """Sample the trajectories of one prompt, and return them as a group. `number` is the number of the group, which
        is a part of the seed. The result depends only on `number`, the prompt, `rl.seed` and the weights, so the same
        call can be repeated.

        >>> group = policy.sample_group(7, prompts[7])
        >>> again = policy.sample_group(7, prompts[7])  # the same pictures
        """
        size = self.recipe.require_rl().group_size
        return self._worker.sample_group(number, prompt, size, iteration=self.version)[1]

    def follow(self, learner: Learner) -> None:
        """Copy the weights of the learner into this policy. All later samples are drawn with these weights. The
        policy's `version` becomes the number of updates that the learner has made.

        With LoRA, only the adapters are copied. Then policy and learner must have loaded the same model folder.
        Otherwise InputError is raised.

        >>> policy.follow(learner)
        >>> policy.version, policy.digest[:12]
        """
        lora = learner.settings.lora
        if lora is not None and Path(learner.settings.folder).resolve() != self._folder.resolve():
            raise InputError(f"the learner adapts {learner.settings.folder}, the policy has {self._folder}: use one")
        if lora != self._settings.lora:
            self._settings = replace(self._settings, lora=lora)
            del self._worker  # deleted first, because a GPU may have no room for two models
            self._worker = RolloutWorker(self._settings)
        new = learner.publish(learner.updates)
        assert new is not None  # not None, because a single rank has all weights
        self.version, self.digest = self._worker.set_weights(new.arrays, new.version, new.digest)


def load_prompts(recipe: Recipe, split: str = "train") -> list[Prompt]:
    """Return the prompts of a split of the recipe's task. If the split is `train` and the recipe sets `rl.prompts`,
    read the prompts from this file instead.

    Raises InputError if the file has no prompts, or if the task does not have this split.

    >>> prompts = irg_rl.load_prompts(recipe, "train")
    >>> prompts[0].text
    """
    task, file = task_of(recipe), None if recipe.rl is None else recipe.rl.prompts
    if split not in task.splits:
        raise InputError(f"the task {recipe.task} has no split {split!r}: choose {', '.join(task.splits)}")
    return read_prompts(file) if file is not None and split == "train" else task.prompts(split)


def score(groups: Sequence[Group], recipe: Recipe, run: Path | str | None = None) -> None:
    """Score every image with every scorer of the recipe, and store the scores in the groups.

    The scores of the scorer `name` are in `trajectory.rewards[name]`: one number per image of the trajectory, in the
    units of the scorer. If the scorer failed on an image, the score of this image is None. Scores of reflections and
    edits are stored in `segment.scores`.

    `run` is the folder of a run that has trained small CLIP and HPS models. It is needed only if the recipe uses such
    models. Every call loads the scorers again, so pass many groups in one call.

    This function can raise three errors:
    * InputError: the recipe has no scorers, or a scorer needs a run and `run` is None.
    * ScorerUnavailable: a scorer cannot work.
    * TooManyFailures: the share of failures is above `rewards.max_failure_share`.

    >>> irg_rl.score(groups, recipe, run="runs/shapes")
    >>> groups[0].trajectories[0].rewards["verifier"]  # one number per turn
    """
    with reward_hub(recipe, None if run is None else Path(run) / "scorers") as hub:
        if hub is None:
            raise InputError(f"recipe {recipe.name}: no rewards.scorers: name one, as {{name: v, kind: verifier}}")
        for group in groups:
            score_group(group, hub)


def assign_credit(groups: Sequence[Group], recipe: Recipe) -> list[Selection]:
    """Compute advantages from rewards, and store them in the groups. The credit scheme named in `rl.credit` computes
    them. If the algorithm in `rl.algorithm` uses no credit scheme, the algorithm computes them itself.

    The advantage of a segment (a text or an image) is `segment.advantage`: a number without a unit, or None if the
    segment is not trained.

    Returns one Selection per group. Raises InputError for a group that was not scored. A Selection has three fields:
    * `has_spread`: whether the rewards of the group's samples differ
    * `empty`: whether nothing in the group is trained
    * `counts`: a dict of numbers for the log

    >>> selections = irg_rl.assign_credit(groups, recipe)
    >>> [segment.advantage for segment in groups[0].segments]
    """
    settings = CriticSettings.of(recipe)
    for group in groups:
        weights = settings.credit.of_prompt(group.prompt).weights
        if missing := {name for t in group.trajectories for name in weights if name not in t.rewards}:
            raise InputError(f"group {group.id} has no rewards by {', '.join(sorted(missing))}: call score before")
    return [settings.assign(group) for group in groups]


def make_learner(folder: Path | str, recipe: Recipe) -> Learner:
    """Return a learner that trains its own copy of the model in `folder`, in this process. It uses the optimizer and
    losses of `rl.algorithm`.

    `learner.train(*groups)` makes one update and returns its metrics by name. The first call also compares the
    log-probabilities of sampler and learner (in nats), and raises RatioError if they differ.
    `learner.check_ratio(*groups)` returns this comparison as rows of a table. Raises InputError for a broken folder.

    >>> learner = irg_rl.make_learner("runs/shapes/models/sft2", recipe)
    >>> metrics = learner.train(*groups)
    """
    learner = Learner(replace(learner_settings(recipe, folder), threads=recipe.engine.threads))
    learner.setup()
    return learner


def save_model(learner: Learner, folder: Path | str) -> None:
    """Write the trained weights as a model folder that every command accepts. If `rl.ema_decay` is set, write the
    moving average of the weights instead.

    >>> irg_rl.save_model(learner, "trained")
    >>> policy = irg_rl.Policy("trained", recipe)
    """
    settings = learner.settings
    write_trained(Path(settings.folder), learner.average(), Path(folder), settings.lora)

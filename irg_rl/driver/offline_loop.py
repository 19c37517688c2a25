"""The RL stage without sampling: it learns from groups of samples that were stored in a folder earlier, together with
their scores. The setting `rl.rollouts` names this folder."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from irg_rl import stopping
from irg_rl.algorithms.base import Material, algorithm_of
from irg_rl.algorithms.learner import LearnerSettings
from irg_rl.driver.learners import Learners
from irg_rl.driver.prepare import model_path
from irg_rl.driver.progress import bar, console
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.driver.room import LEARNER, asked_by_rl, ray_settings, ray_with_room
from irg_rl.driver.run_folder import Run
from irg_rl.errors import InputError
from irg_rl.learner.ratio_check import RatioError, require_texts_law
from irg_rl.learner.replay import Replay, open_ids
from irg_rl.model.folder import Folder, load_folder
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.records import FACTS, group_folders, load_groups
from irg_rl.report.tracking import Tracker
from irg_rl.trajectory import Group


@dataclass(frozen=True)
class Archive:
    """The groups in a folder of stored rollouts that are useful for RL. A group has several samples of one prompt.
    Groups without training material are left out. `places` lists all other groups as pairs (folder, index in the
    folder).

    `material` counts the training material of the whole folder. For DPO it counts pairs of a better and a worse sample.
    `usable` is the number of pairs that can be trained. `ties` is the number of pairs with rewards that are too close.
    `too_long` is the number of pairs that do not fit into one pack (the token sequence of one forward pass).
    """

    places: list[tuple[Path, int]]
    material: Material

    @classmethod
    def read(cls, folder: Path, settings: LearnerSettings, parts: Folder) -> "Archive":
        """Read and check all groups that are stored in `folder`. `settings` are the settings of the learner. `parts` is
        the loaded model folder (model, autoencoder and tokenizer) from which training starts.

        Raises InputError in three cases: no group can be used for training, scores are missing, or the texts were
        sampled with a tokenizer other than the tokenizer in `parts`. Raises RatioError if the texts were not sampled
        with the temperature and the system prompt in `settings`.
        """
        algorithm, limit, tokenizer = settings.algorithm, settings.max_pack_tokens, parts.tokenizer
        replay = Replay(
            parts.model.config, tokenizer.special, tokenizer.encode, system_prompt=settings.system_prompt,
            max_pack_tokens=limit,
        )  # fmt: skip
        places, found = [], []
        for part in group_folders(folder):
            _require_system_prompt(part, settings.system_prompt)
            for place, group in enumerate(load_groups(part)):
                require_tokenizer(group, tokenizer, part)
                _require_scores(group, algorithm.shared.weights_for(group.prompt), part)
                require_texts_law(group.trajectories, settings.law)
                found.append(algorithm.material(group, replay, limit))
                places += [(part, place)] if found[-1].usable else []
        total = Material(
            sum(one.usable for one in found), sum(one.ties for one in found), sum(one.too_long for one in found)
        )
        if not places:
            raise InputError(
                f"{folder}: there is nothing to learn from in its {len(found)} groups: {total.ties} pairs are ties "
                f"(lower rl.options.tie), {total.too_long} are too long for a pack (raise rl.max_pack_tokens, now "
                f"{limit}); or sample more groups with `irg-rl rollout`"
            )
        return cls(places, total)

    def batch(self, update: int, size: int, seed: int) -> list[Group]:
        """Return the `size` groups of samples that update number `update` (counted from 0) uses. The updates use all
        groups once, in a random order that depends on `seed`. Then they use all groups again in another random order,
        and so on."""
        numbers = range(update * size, (update + 1) * size)
        return [self._group(*divmod(number, len(self.places)), seed) for number in numbers]

    def _group(self, epoch: int, number: int, seed: int) -> Group:
        order = np.random.default_rng([seed, epoch]).permutation(len(self.places))
        folder, place = self.places[int(order[number])]
        return load_groups(folder)[place]


def require_tokenizer(group: Group, tokenizer: TextTokenizer, where: Path) -> None:
    """Raise InputError if the group of samples was not sampled with this tokenizer. To check this, the function decodes
    the stored token ids of every text. The result must be equal to the stored text. `where` is the folder of the group,
    for the error message."""
    eos = tokenizer.special.eos
    for segment in (text for trajectory in group.trajectories for text in trajectory.texts):
        if tokenizer.decode(open_ids(segment, eos).tolist()) != segment.text:
            raise InputError(
                f"{where}: the text {segment.text[:60]!r} was written with another tokenizer than that of the model: "
                "roll out with a checkpoint of the same base"
            )


def _require_system_prompt(part: Path, own: str) -> None:
    """Raise RatioError if `irg-rl rollout` sampled the groups with another system prompt than `own`. Groups that a run
    has saved during RL (`rl.dump_every`) are not checked, because their system prompt is not recorded."""
    facts = part.parent / FACTS
    theirs = json.loads(facts.read_text()).get("system_prompt") if facts.is_file() else own
    if theirs != own:
        raise RatioError(
            f"{part.parent} was sampled with the system prompt {theirs!r}, the learner has {own!r}: set "
            "sampling.system_prompt to that of the rollouts"
        )


def _require_scores(group: Group, weights: Mapping[str, float], where: Path) -> None:
    for trajectory in group.trajectories:
        lacking = sorted(weights.keys() - trajectory.rewards.keys())
        if lacking:
            raise InputError(
                f"{where}: prompt {group.prompt.id!r} has no score by {', '.join(lacking)} (there are "
                f"{', '.join(trajectory.rewards) or 'none'}): leave it out of rewards.scorers or roll out with it"
            )


def learn_offline(run: Run, start: str, tracker: Tracker, facts: dict) -> None:
    """Train the model in the folder `start` of the run with RL, without sampling. RL learns from the groups of samples
    that are stored in the folder `rl.rollouts`. Write the trained model as the model folder `rl` of the run. Log
    metrics in `tracker`. Put the numbers of updates, groups and pairs of samples into `facts`; the caller stores
    `facts` in stages.json."""
    recipe, folder = run.recipe, run.recipe.require_rl().rollouts
    assert folder is not None
    path = model_path(run, start)
    archive = Archive.read(Path(folder), learner_settings(recipe, str(path)), load_folder(path))
    pairs = archive.material
    console.print(
        f"{pairs.usable} pairs of {len(archive.places)} groups in {folder}; {pairs.ties} ties, {pairs.too_long} pairs "
        "too long for a pack"
    )
    with ray_with_room(run, ray_settings(recipe), asked_by_rl(recipe)) as room:
        learners = Learners(run, start, room[LEARNER])
        try:
            _learn(run, tracker, learners, archive)
            facts.update(
                updates=learners.updates, groups=len(archive.places), pairs=pairs.usable, ties=pairs.ties,
                too_long=pairs.too_long,
            )  # fmt: skip
            learners.save_model("rl")
        finally:
            learners.stop()


def _learn(run: Run, tracker: Tracker, learners: Learners, archive: Archive) -> None:
    recipe, rl = run.recipe, run.recipe.require_rl()
    shown = algorithm_of(recipe).progress
    learners.resume()
    tracker.rewind("rl", learners.updates)
    with bar("RL", rl.updates, learners.updates) as progress, stopping.loop():
        while learners.updates < rl.updates:
            began = time.monotonic()
            groups = [ray.put(group) for group in archive.batch(learners.updates, rl.groups, recipe.rl_seed)]
            result = learners.finish(learners.train(groups))
            learners.keep_bad(groups)
            tracker.log("rl", learners.updates, {**result, "seconds/learn": time.monotonic() - began})
            due = learners.updates % rl.checkpoint_every == 0 and learners.bad <= 2
            is_ending = stopping.asked()  # asked once: what is not saved is not said to be
            if due or learners.updates == rl.updates or learners.bad == 2 or is_ending:
                learners.save({})
                run.count_time("rl")
            learners.require_finite()
            if is_ending:
                stopping.end(f"update {learners.updates} of rl")
            progress.advance(note=f"{shown} {result.get(shown, math.nan):.3f}")

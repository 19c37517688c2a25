"""Converts the scorers of a recipe into specs. A spec is a dict that describes one scorer; the package `rewards` makes
the scorer from it. A task can include a judge of its own, which is called the embedded judge. If a judge in the recipe
has no address (`base_url`), the program starts the embedded judge as a process and uses it."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from irg_rl.config import Recipe, ScorerRecipe
from irg_rl.config.rewards import JUDGE_KINDS, WITH_MODEL
from irg_rl.driver.prepare import as_world
from irg_rl.environment import is_loopback
from irg_rl.errors import InputError
from irg_rl.task import Pixels, task_of
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub
from rewards.judge_process import JudgeProcess

KEPT = ("cache_folder", "split_folder")
"""Options that name folders of a scorer with a judge."""


def embeds_judge(recipe: Recipe) -> bool:
    """Return whether a judge of the recipe has no address, so that the program starts the task's own judge."""
    return any(s.kind == "judge" and s.base_url is None for s in recipe.rewards.scorers)


def scores_beside_driver(recipe: Recipe) -> bool:
    """Return whether a scorer of the recipe can only be reached from the machine of the driver. The program starts the
    embedded judge on this machine, and a loopback address such as 127.0.0.1 means this machine."""
    addresses = [str(s.options.get("base_url") or s.base_url or "") for s in recipe.rewards.scorers]
    return embeds_judge(recipe) or any(_is_here(address) for address in addresses)


def _is_here(address: str) -> bool:
    """Return whether an address of a server means this machine. One that no program can read does not."""
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


@contextmanager
def scorer_specs(recipe: Recipe, trained: Path | None) -> Iterator[list[dict]]:
    """Give a context (for `with`) that yields one spec for each scorer of the recipe. A spec is a dict that describes
    the scorer. If a judge in the recipe has no address, the task's own judge (the embedded judge) is used. It runs
    until the context ends.

    `trained` is the folder with the scorers that a run has trained. It is None if there is no run.
    """
    scorers = recipe.rewards.scorers
    if not embeds_judge(recipe):
        yield [spec_of(recipe, scorer, trained) for scorer in scorers]
        return
    with JudgeProcess(as_world(task_of(recipe)).mind, seed=recipe.seed, errs=recipe.rewards.judge_errs) as judge:
        yield [spec_of(recipe, scorer, trained, judge.base_url) for scorer in scorers]


def spec_of(recipe: Recipe, scorer: ScorerRecipe, trained: Path | None, judge_url: str | None = None) -> dict:
    """Return the spec of one scorer: a dict from which the package `rewards` can make the scorer. `trained` is the
    folder with the scorers that a run has trained, or None if there is no run. `judge_url` is the address of the task's
    own judge. It is used if the scorer is a judge and the recipe has no address for it.

    Raises InputError if the scorer needs a model that only a run trains, but `trained` is None.
    """
    spec = {"name": scorer.name, "kind": scorer.kind, "weight": scorer.weight, "held_out": scorer.held_out}
    spec |= {"of": scorer.of, "when": scorer.when}
    own = dict(scorer.options)
    if scorer.kind in JUDGE_KINDS:
        options = {
            "base_url": scorer.base_url or judge_url, "model": scorer.model, "timeout": scorer.timeout_s,
            "concurrency": scorer.concurrency, "api_key_env": scorer.api_key_env or "",
        }  # fmt: skip
        folders = {name: folder for name in KEPT if isinstance(folder := scorer.options.get(name), str) and folder}
        # an actor may have another working folder
        own |= {name: str(Path(folder).expanduser().absolute()) for name, folder in folders.items()}
    elif scorer.kind == "remote":
        options = {
            "base_url": scorer.base_url, "timeout": scorer.timeout_s, "concurrency": scorer.concurrency,
            "api_key_env": scorer.api_key_env or "", "of": scorer.of,
        }  # fmt: skip
    elif scorer.kind in WITH_MODEL:
        path = scorer.path or scorer.options.get("path")
        if path is None:
            if trained is None:
                raise InputError(
                    f"scorer {scorer.name!r}: a run trains its {scorer.kind} model, and no run is given: name a run "
                    "that has trained it, or set the scorer's `path` to a released model"
                )
            path = trained / scorer.kind
        options = {"path": str(path), "device": recipe.scorer_device(scorer)}
    elif scorer.kind == "verifier":
        options = {
            "task": recipe.task, "task_options": recipe.task_options.model_dump(mode="json"), "seed": recipe.seed,
            "image_size": recipe.sampling.image_size,
        }  # fmt: skip
    else:
        options = {}
    return {**spec, "options": {**options, **own}}


@contextmanager
def reward_hub(
    recipe: Recipe, trained: Path | None, names: Sequence[str] | None = None
) -> Iterator[RewardHub | None]:
    """Give a context (for `with`) that yields a RewardHub. This object scores images with all scorers of the recipe. If
    `names` is given, it uses only the scorers with these names. If a judge has no address, the task's own judge (the
    embedded judge) runs until the context ends.

    The context yields None if there are no scorers. `trained` is the folder with the scorers that a run has trained, or
    None if there is no run.
    """
    rewards = recipe.rewards
    if names is not None:
        chosen = [scorer for scorer in rewards.scorers if scorer.name in names]
        rewards = rewards.model_copy(update={"scorers": chosen})
        recipe = recipe.model_copy(update={"rewards": rewards})
    with scorer_specs(recipe, trained) as specs:
        yield RewardHub(specs, max_failure_share=rewards.max_failure_share) if specs else None


class RememberedScores:
    """Scores pictures with the scorers of a RewardHub and remembers the scores. If a scorer gets the same picture for
    the same prompt again, the first score is returned.

    An evaluation continues the same first images in several ways: with the model's own refinement, and with controls
    (such as a plain new draw). So the same picture is scored several times. Without this memory, a scorer with random
    errors could give different scores to the same picture. A failure of a scorer is remembered in the same way.
    """

    def __init__(self, hub: RewardHub) -> None:
        self.hub = hub
        self._known: dict[tuple[str, str, bytes], float | None] = {}

    def __call__(self, name: str, images: list[Pixels], prompts: list[Prompt]) -> list[float | None]:
        """Return one score per picture, given by the scorer `name`, or None where the scorer failed. (The type of this
        function is irg_rl.task.ScoreBy.)"""
        keys = [(name, prompt.id, _digest(image)) for image, prompt in zip(images, prompts, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        places = list(new.values())
        found = self.hub.score_with(name, [images[p] for p in places], [prompts[p] for p in places]) if places else []
        self._known.update(zip(new, found, strict=True))
        return [self._known[key] for key in keys]


def _digest(image: Pixels) -> bytes:
    return hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()

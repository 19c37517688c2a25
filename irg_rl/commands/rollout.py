"""`irg-rl rollout`: samples and scores groups as RL does, and stores them in a folder for training without sampling. A
group is several samples of one prompt.

Each group is stored in a folder of its own, in the format of the module `records`. A group is never stored
incompletely. An interrupted command continues where it stopped. The prompt of a group and all its random numbers depend
only on the seed and the number of the group. So it makes no difference whether twenty groups are made at once, or first
ten and later ten more.
"""

import json
from pathlib import Path

from irg_rl.api import Policy
from irg_rl.commands.generate import model_folder
from irg_rl.config import load_recipe
from irg_rl.driver.critic import Critic, CriticSettings
from irg_rl.driver.prepare import rl_prompts_file
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.driver.scorers import scorer_specs
from irg_rl.prompts import PromptOrder, read_prompts
from irg_rl.records import FACTS, WORDS, save_groups


def roll_out(target: Path, out: Path, groups: int, overrides: list[str]) -> None:
    """Sample and score groups, and write the groups with numbers 0 to `groups` - 1 into the folder `out`. Groups that
    are already there are not made again. `target` is a run or a model folder inside a run. `overrides` replace settings
    of the run's recipe.

    Raises RunError if the model folder is not inside a run. (The scorers and the prompts come from the run.) Also
    raises RunError if `out` was begun with another model or other settings.
    """
    folder = model_folder(target).resolve()
    run = _run_of(folder, overrides)
    recipe, policy = run.recipe, Policy(folder, run.recipe)
    _begin(out, {
        "model": str(folder), "weights": policy.digest, "digest": recipe.digest(), "seed": recipe.rl_seed,
        "group_size": recipe.require_rl().group_size, "system_prompt": recipe.sampling.system_prompt,
    })  # fmt: skip
    prompts = PromptOrder(read_prompts(rl_prompts_file(run)), recipe.rl_seed, recipe.require_rl().prompt_mix)
    missing = [number for number in range(groups) if not (_place(out, number) / WORDS).is_file()]
    with scorer_specs(recipe, run.path("scorers")) as specs, bar("rollout", groups, groups - len(missing)) as progress:
        critic = Critic(specs, CriticSettings.of(recipe), recipe.engine.threads, recipe.rewards.max_failure_share)
        for number in missing:
            summary, group = critic.score_group(policy.sample_group(number, prompts[number]))
            save_groups(_place(out, number), [group])
            progress.advance(note=f"reward {summary.first:.3f} -> {summary.last:.3f}")
    console.print(f"{groups} groups of {recipe.require_rl().group_size} in {out}", soft_wrap=True, markup=False)


def _run_of(folder: Path, overrides: list[str]) -> Run:
    """Return the run that contains the model folder, with a recipe in which `overrides` replace settings. Raises
    RunError if the recipe has no section `rl`."""
    run = Run.open(folder.parent.parent)
    recipe = load_recipe(run.folder / "recipe.yaml", overrides)
    if recipe.rl is None:
        raise RunError(f"{run.folder}: its recipe has no `rl`, which says how to sample; give one, as rl.group_size=8")
    return Run(run.folder, recipe, run.stages)


def _begin(out: Path, facts: dict) -> None:
    """Write facts about the model and the settings into a new folder of groups. Raises RunError if the folder already
    records another model or other settings."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / FACTS
    if not path.is_file():
        write_json(path, facts)
        return
    before = json.loads(path.read_text())
    other = [f"{key} {before.get(key)}, now {value}" for key, value in facts.items() if before.get(key) != value]
    if other:
        raise RunError(f"{out} was begun with {'; '.join(other)}: go on as before, or write into another folder")


def _place(out: Path, number: int) -> Path:
    return out / f"group-{number:06d}"

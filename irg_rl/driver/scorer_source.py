"""The scorers of a recipe or a run, for commands that use them without a run of their own."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from irg_rl.config import Recipe, ScorerRecipe, load_recipe
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import reward_hub
from irg_rl.errors import InputError
from irg_rl.reward_bench.material import GiveVerdicts
from irg_rl.reward_bench.scoring import ScorerCase
from irg_rl.task import Pixels, Verdict, task_of
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub


@dataclass(frozen=True)
class ScorerSource:
    """The recipe from which scorers are taken, and the folder with the scorers that a run has trained. The folder is
    None outside of a run. `digest` is that of the recipe as it was given: `recipe` never stops for failures."""

    recipe: Recipe
    trained: Path | None
    digest: str

    @classmethod
    def of(cls, target: str, overrides: Sequence[str]) -> "ScorerSource":
        """`target` is a run, the name of a run in ./runs, a recipe file, or the name of a shipped recipe. They are
        looked for in this order."""
        for folder in (Path(target), Path("runs", target)):
            if (folder / "recipe.yaml").is_file():
                Run.open(folder)  # finds the user's own modules, and hides keys in all output
                recipe, trained = load_recipe(folder / "recipe.yaml", list(overrides)), folder / "scorers"
                break
        else:
            recipe, trained = load_recipe(target, list(overrides)), None
        # failures are counted, so they must not stop the command
        patient = recipe.rewards.model_copy(update={"max_failure_share": 1.0})
        torch.set_num_threads(recipe.engine.threads)
        return cls(recipe.model_copy(update={"rewards": patient}), trained, recipe.digest())

    def cases(self) -> list[ScorerCase]:
        """Return the scorers of images. Raises InputError if there are none."""
        scorers = [scorer for scorer in self.recipe.rewards.scorers if scorer.of == "image"]
        if not scorers:
            raise InputError("the recipe has no scorer of images: add one to rewards.scorers")
        return [
            ScorerCase(s.name, s.kind, f"{s.name} {self._digest(s)}", s.weight, s.held_out) for s in scorers
        ]

    def _digest(self, scorer: ScorerRecipe) -> str:
        """Return a hash of everything that the scores of a scorer depend on, as far as the recipe says it."""
        recipe = self.recipe
        about = [
            scorer.model_dump(mode="json", exclude={"weight", "held_out"}), recipe.task,
            recipe.task_options.model_dump(mode="json"), recipe.seed, list(recipe.sampling.image_size),
            recipe.rewards.judge_errs, None if self.trained is None else str(self.trained.resolve()),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]

    @contextmanager
    def open_hub(self, name: str) -> Iterator[RewardHub]:
        with reward_hub(self.recipe, self.trained, [name]) as hub:
            assert hub is not None
            yield hub

    def verdicts(self) -> GiveVerdicts | None:
        """Return the function with which the task judges images, or None if it needs a scorer for that."""
        task = task_of(self.recipe)
        if task.verdict_scorer is not None:
            return None

        def judged(images: list[Pixels], prompts: list[Prompt]) -> list[Verdict | None]:
            known = [place for place, prompt in enumerate(prompts) if task.judges(prompt)]
            found: list[Verdict | None] = [None] * len(prompts)
            if known:
                given = task.verdicts([images[i] for i in known], [prompts[i] for i in known])
                for place, verdict in zip(known, given, strict=True):
                    found[place] = verdict
            return found

        return judged

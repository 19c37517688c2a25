"""Study: which credit scheme trains best? A credit scheme turns the scores of images into advantages. RL is run once
for each pair of a scheme and a seed. All runs start from one SFT checkpoint. Then the study compares the trained models
and their rewards. The study `credit` looks at the same schemes, but it measures only their gradients and trains
nothing."""

from typing import Any

import numpy as np

from irg_rl.algorithms.base import algorithm_of
from irg_rl.config import Recipe, changed_recipe
from irg_rl.credit import carried, scheme_named
from irg_rl.errors import InputError
from irg_rl.studies.credit import REFERENCE
from irg_rl.studies.forks import ForkPlan, Forks, arm_table, gain_plate, gained, reward_plate, turn_plate
from irg_rl.studies.frame import Frame
from irg_rl.studies.measures import words
from irg_rl.studies.settings import SchemesSettings
from irg_rl.studies.study import Findings


class Schemes(Forks[SchemesSettings]):
    name = "schemes"
    question = "Which credit scheme trains best?"
    settings_type = SchemesSettings

    def plans(self) -> dict[tuple[str, int], ForkPlan]:
        own = self.settings
        if spare := [scheme for scheme in own.alone if scheme not in own.schemes]:
            raise InputError(f"study.alone: {spare[0]!r} is not among study.schemes ({', '.join(own.schemes)})")
        if REFERENCE in own.alone:
            raise InputError(f"study.alone: {REFERENCE} is what the others are compared with, so it needs all seeds")
        recipe = self.bench.subjects[0].recipe
        if recipe.rl is not None and not algorithm_of(recipe).uses_credit:
            raise InputError(f"{recipe.name}: rl.algorithm {recipe.rl.algorithm} takes no credit, so none changes it")
        plans = {
            (scheme, seed): ForkPlan({"rl.credit": scheme, **self._options(recipe, scheme), "rl.seed": seed})
            for scheme in own.schemes for seed in (own.seeds[:1] if scheme in own.alone else own.seeds)
        }  # fmt: skip
        for plan in plans.values():  # raise errors about wrong settings before anything is trained
            changed_recipe(recipe, plan.changes, recipe.name)
        return plans

    def _options(self, recipe: Recipe, scheme: str) -> dict[str, Any]:
        """Return the options with which `scheme` is trained (the setting `rl.credit_options`). They are those options
        of the credit scheme in the recipe that `scheme` also has. Options with default values are left out. The dict is
        empty if no options are left."""
        if recipe.rl is None:
            return {}
        options = carried(recipe.rl.credit_options, scheme_named(scheme)).model_dump(mode="json", exclude_defaults=True)
        return {"rl.credit_options": options} if options else {}

    def findings(self, frame: Frame) -> Findings:
        seeds = self.settings.seeds
        frame = _labelled(frame, self.settings)
        stamp = f"{self.stamp(frame)} | seeds of RL {', '.join(map(str, seeds))}"
        reference = REFERENCE if REFERENCE in frame.values("arm") else None
        caption = "Right at the last turn after RL less before it, paired over prompts; seeds are pooled."
        against = f"Right at the last turn less that of {REFERENCE}, paired over prompts and the seeds that both have."
        plates = [
            reward_plate("rewards", "Rewards while each credit scheme trains", frame, self.origin(frame)),
            turn_plate("turns", "After RL with each credit scheme", frame, stamp),
            gain_plate("gain", "What RL gains by its credit scheme", caption, frame, None, stamp),
            None if reference is None else
            gain_plate("against", f"Credit schemes against {REFERENCE}", against, frame, reference, stamp),
        ]  # fmt: skip
        told = ", ".join(f"{arm} {words(gain, '+.3f')}" for arm, gain in gained(frame, None).items())
        tables = [arm_table(frame, None, seeds)]
        return Findings(f"Gain at the last turn: {told}", [plate for plate in plates if plate is not None], tables)


def _labelled(frame: Frame, settings: SchemesSettings) -> Frame:
    """Return the table with readable labels in the column `arm`, instead of the names of the credit schemes. If a
    scheme is trained with fewer seeds than the others, its label says so."""
    if len(settings.seeds) == 1:
        return frame
    alone = f" (seed {settings.seeds[0]} alone)"
    names = [f"{arm}{alone}" if arm in settings.alone else arm for arm in frame["arm"].tolist()]
    return Frame({**frame.columns, "arm": np.array(names, dtype=object)})

"""Study: which of the six learning modes are useful? The modes are the six kinds of SFT training rows in Interleaving
Reasoning Generation (arXiv 2509.06945). This study repeats the first ablation of that paper: SFT is done several times
with the same number of steps: with all modes, with full trajectories only, and, for each mode, once without this mode.
"""

from irg_rl.config import Recipe, Stage
from irg_rl.errors import InputError
from irg_rl.studies.forks import ForkPlan, Forks, arm_table, gain_plate, gained, turn_plate
from irg_rl.studies.frame import Frame
from irg_rl.studies.measures import words
from irg_rl.studies.settings import ModesSettings
from irg_rl.studies.study import Findings

ALL, FULL_ONLY = "all modes", "full trajectories only"
PREFIXES = ("initial_", "improving_")
"""The name of every learning mode begins with one of these prefixes. Training rows with other names (those of the base
model) are used whatever modes are left out."""
FULL = "_full_learning"


class Modes(Forks[ModesSettings]):
    name = "modes"
    question = "Which learning modes does refinement need?"
    settings_type = ModesSettings

    def plans(self) -> dict[tuple[str, int], ForkPlan]:
        recipe = self.bench.subjects[0].recipe
        there = modes_of(recipe)
        without = there if self.settings.without is None else self.settings.without
        unknown = [mode for mode in without if mode not in there]
        if unknown:
            raise InputError(f"study.without: no stage draws from mode {unknown[0]!r}; there are {', '.join(there)}")
        arms = {ALL: set(), FULL_ONLY: {mode for mode in there if not mode.endswith(FULL)}}
        arms |= {f"without {mode.removesuffix('_learning')}": {mode} for mode in without}
        return {(arm, recipe.seed): ForkPlan(_without(recipe, left_out), anew=True) for arm, left_out in arms.items()}

    def findings(self, frame: Frame) -> Findings:
        caption = "Right at the last turn less that with all modes, paired over prompts. One seed of SFT."
        plates = [
            turn_plate("turns", "After SFT with fewer modes", frame, self.stamp(frame)),
            gain_plate("gain", "What leaving a mode out costs", caption, frame, ALL, self.stamp(frame)),
        ]
        told = ", ".join(f"{arm} {words(gain, '+.3f')}" for arm, gain in gained(frame, ALL).items() if arm != ALL)
        seed = self.bench.subjects[0].recipe.seed
        return Findings(f"Against all modes, at the last turn: {told}", plates, [arm_table(frame, ALL, [seed])])


def mode_of(folder: str) -> str | None:
    """Return the learning mode (kind of training rows) of a folder, or None if the folder belongs to no mode. The mode
    is the last part of the path, as in `own/improving_full_learning`."""
    name = folder.rsplit("/", 1)[-1]
    return name if name.startswith(PREFIXES) else None


def modes_of(recipe: Recipe) -> list[str]:
    """Return the learning modes (kinds of training rows) that the SFT stages of the recipe use, in order of first
    appearance. The stage `base` is ignored."""
    found = [mode_of(source.folder) for stage in _stages(recipe).values() for source in stage.sources]
    return list(dict.fromkeys(mode for mode in found if mode is not None))


def _stages(recipe: Recipe) -> dict[str, Stage]:
    return {name: stage for name, stage in recipe.require_sft().stages.items() if name != "base"}


def _without(recipe: Recipe, left_out: set[str]) -> dict[str, object]:
    """Return the recipe settings to change, so that only SFT is done (no RL) and the training rows of the modes in
    `left_out` are not used. There is one exception: a stage that would have no rows left keeps all of its rows. Without
    this stage, the number of training steps would be different."""
    changes: dict[str, object] = {"rl": None}
    for name, stage in _stages(recipe).items():
        kept = [source for source in stage.sources if mode_of(source.folder) not in left_out]
        if any(source.weight > 0 for source in kept):
            changes[f"sft.{name}.sources"] = [source.model_dump(mode="json") for source in kept]
    return changes

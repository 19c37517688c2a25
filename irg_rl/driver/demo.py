"""`irg-rl demo`: shows in a minute what the program does, with two small trained models that come with it.

The models are the SFT and the RL checkpoint of the recipe shapes-rl (irg_rl/checkpoints/README.md). The demo is an
ordinary run whose first stages are taken from them, so `report`, `show` and `generate` take its folder too.
"""

import shutil
from pathlib import Path

from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.prepare import prompts_file
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.driver.stages import BEFORE_RL, work
from irg_rl.model.folder import AUTOENCODER
from irg_rl.prompts import write_prompts
from irg_rl.task import task_of

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
RECIPE = "shapes-rl"
SETTINGS = (
    "name=demo", "tracking.wandb=false",
    "budget_minutes.evaluate_sft=0.2", "budget_minutes.rl=1.5", "budget_minutes.evaluate_rl=0.2",
    "description=Two trained models that come with the program. 24 prompts are too few to pass or fail the gate.",
    "evaluation.prompts=24", "evaluation.strips=24",
    "rewards.scorers=[{name: verifier, kind: verifier, weight: 1.0, options: {right: 0.5}}, "
    "{name: truth, kind: verifier, of: reflection, weight: 1.0}, {name: edit, kind: verifier, of: edit, weight: 1.0}]",
)  # fmt: skip
"""What the demo changes in the recipe: few prompts, and no scorers that have to be trained first."""
SHORT_RL = ("rl.updates=10", "rl.groups=16", "rl.groups_per_batch=16")
"""What the demo changes in RL, so that it takes a minute and a half. So few updates show how RL runs, not that it
learns."""
TRAIN_PROMPTS = 1000


def demo(output_dir: Path, rl: bool) -> Path:
    """Make a run from the trained models, draw with them, and build the report. Return the run folder. If `rl` is
    true, the RL checkpoint is trained here, for a few updates, and not taken from the program."""
    run = Run.create(demo_recipe(output_dir, rl), lambda made: fill(made, rl))
    work(run)
    return run.folder


def demo_recipe(output_dir: Path, rl: bool) -> Recipe:
    return load_recipe(RECIPE, [f"output_dir={output_dir}", *SETTINGS, *(SHORT_RL if rl else ())])


def fill(run: Run, rl: bool) -> None:
    """Write the prompts and the trained models into a new run, and mark their stages as done."""
    task = task_of(run.recipe)
    for split in task.splits:
        write_prompts(prompts_file(run, split), task.prompts(split)[:TRAIN_PROMPTS])
    models = {str(run.sft_model): "sft"} | ({} if rl else {"rl": "rl"})
    for name, source in models.items():
        shutil.copytree(CHECKPOINTS / source, run.path("models", name))
        shutil.copy(CHECKPOINTS / AUTOENCODER, run.path("models", name))
    done = [stage.name for stage in BEFORE_RL if stage.name != "evaluate_sft"] + ([] if rl else ["rl"])
    run.stages = {name: {"seconds": 0.0, "done": True, "from": "the demo's models"} for name in done}
    write_json(run.folder / "stages.json", run.stages)

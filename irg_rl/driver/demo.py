"""`irg-rl demo`: shows in a minute what the program does, with two small trained models that come with it.

The models are the SFT and the RL checkpoint of the recipe shapes-rl (irg_rl/checkpoints/README.md). The demo is an
ordinary run whose first stages are taken from them, so `report`, `show` and `generate` take its folder too.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.prepare import prompts_file
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, write_json
from irg_rl.driver.stages import BEFORE_RL, work
from irg_rl.evaluate.intervals import Measure
from irg_rl.evaluate.learning import learning
from irg_rl.model.folder import AUTOENCODER
from irg_rl.prompts import write_prompts
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from irg_rl.task import task_of

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
RECIPE = "shapes-rl"
SETTINGS = (
    "name=demo", "tracking.wandb=false",
    "budget_minutes.evaluate_sft=0.2", "budget_minutes.rl=1.5", "budget_minutes.evaluate_rl=0.2",
    "description=Two trained models that come with the program. 24 prompts are too few to judge refinement.",
    "evaluation.prompts=24", "evaluation.strips=24",
    "rewards.scorers=[{name: verifier, kind: verifier, weight: 1.0, options: {right: 0.5}}, "
    "{name: truth, kind: verifier, of: reflection, weight: 1.0}, {name: edit, kind: verifier, of: edit, weight: 1.0}]",
)  # fmt: skip
"""What the demo changes in the recipe: few prompts, and no scorers that have to be trained first."""
SHORT_RL = (
    "budget_minutes.rl=2", "sampling.turns=1", "sampling.points=4", "evaluation.points=4",
    "rl.updates=20", "rl.groups=16", "rl.groups_per_batch=16", "rl.group_size=6", "rl.forks=null",
    "rl.kl_image=0", "rl.prompt_mix={scene: 0, scene/2: 0, scene/3: 0, scene/4: 0, single_object: 0, colors: 0, "
    "counting: 0, two_object: 0, color_attr: 0, position: 1}",
    "rl.noise.window_range=[0, 2]", "rl.noise.window_size=1", "rl.credit=trajectory", "rl.options.times_per_image=2",
    "rl.optimizer.lr=1.5e-4", "rl.optimizer.gen_lr=1.5e-4", "rl.optimizer.schedule=constant",
    "rl.optimizer.final_lr_share=0", "rl.checkpoint_every=20",
    "rewards.scorers=[{name: verifier, kind: verifier, weight: 1.0, options: {right: 0.5}}]",
    "description=RL of the first image. All images are drawn in three denoising steps, for which SFT was not made. "
    "24 prompts are too few to judge refinement.",
)  # fmt: skip
"""What the demo changes in RL, so that its reward rises within three CPU-minutes. The SFT model draws badly in three
denoising steps, and RL teaches it to need no more. So few updates show that RL learns, not that it helps elsewhere."""
TRAIN_PROMPTS = 1000


def demo(output_dir: Path, rl: bool) -> Path:
    """Make a run from the trained models, draw with them, and build the report. Return the run folder. If `rl` is
    true, the RL checkpoint is trained here, for a few updates, and not taken from the program."""
    run = Run.create(demo_recipe(output_dir, rl), lambda made: fill(made, rl))
    work(run)
    if rl:
        console.print(drawn_sentence([row for row in read_metrics(run.path(METRICS)) if row["stage"] == "rl"]))
    return run.folder


def drawn_sentence(rows: Sequence[dict]) -> str:
    """Return a sentence that says whether the drawn reward has risen, with its slope and interval. `rows` are the lines
    of metrics.jsonl of stage RL. The drawn reward is the mean reward of all images that RL has sampled for an update,
    and updates are the cases of the interval (`learning.slope`)."""
    found: Measure = learning(rows).slope
    told = f"{found.value:+.4f} per update [{found.low:+.4f}, {found.high:+.4f}], {found.n} updates"
    if found.low > 0:
        return f"RL: the drawn reward rises, {told}."
    if found.high < 0:
        return f"RL: the drawn reward falls, {told}."
    return f"RL: the drawn reward is not shown to rise, {told}."


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

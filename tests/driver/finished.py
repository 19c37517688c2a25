"""The tiny run after SFT and RL: real world, models, rows and evaluations, but no stage has learnt anything."""

import shutil
from pathlib import Path

from irg_rl.driver.prepare import BASE, prompts_file
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import STAGES, do, tracker_of
from irg_rl.prompts import write_prompts
from irg_rl.shapes_world.prompts import make_prompts
from tests.driver.begun import STAGE, begun_run
from tests.learner.world import TinyWorld

TEST_PROMPTS = 8


def finished_run(world: TinyWorld, folder: Path) -> Run:
    """SFT took 8 s for 4 steps, RL 5 s."""
    sft = {
        "data": str(folder / "rows"), "stage1": STAGE | {"steps": 4}, "ema_decay": 0.5, "checkpoint_every": 1,
        "validation_rows": 1,
    }  # fmt: skip
    run = begun_run(
        world, folder, sft=sft, tracking={"wandb": False}, sampling={"points": 3, "max_text_tokens": 6},
        rl={"noise": {"window_size": 1, "window_range": [0, 2]}},
        evaluation={"prompts": 4, "turns": 2, "strips": 1},
    )  # fmt: skip
    write_prompts(prompts_file(run, "test"), make_prompts(TEST_PROMPTS, "test", seed=0))
    for name in ("sft1", "rl"):
        shutil.copytree(run.path(BASE), run.path("models", name))
    with tracker_of(run) as tracker:
        stages = {stage.name: stage for stage in STAGES}
        run.record("sft1", 8.0, done=True, steps=4)
        do(run, stages["evaluate_sft"], tracker)
        run.record("rl", 5.0, done=True)
        do(run, stages["evaluate_rl"], tracker)
        run.record("report", 1.0, done=True)
    return Run.open(run.folder)

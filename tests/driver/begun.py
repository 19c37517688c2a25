"""A run whose base is the tiny model: its stages can be called one by one, in seconds."""

from pathlib import Path

from irg_rl.config import parse_recipe
from irg_rl.driver.prepare import BASE, prompts_file
from irg_rl.driver.run_folder import Run
from irg_rl.model.folder import save_folder
from irg_rl.prompts import write_prompts
from irg_rl.trajectory import Prompt
from tests.learner.world import CONFIG, TinyWorld
from tests.sft.material import improving_full, write

STAGE = {"steps": 2, "sources": [{"folder": "mode"}], "tokens_per_pack": 150, "optimizer": {"lr": 5e-3}}
PROMPTS = [Prompt(f"p{number}", f"{number} red circles") for number in range(4)]


def begun_run(world: TinyWorld, folder: Path, **sections: dict) -> Run:
    """`sections` of the recipe on top of one stage of SFT over rows made by hand, and RL over four prompts."""
    write(folder / "rows" / "mode", [improving_full(number) for number in range(6)])
    sft = {"data": str(folder / "rows"), "stage1": STAGE, "checkpoint_every": 2, "validate_every": 2,
           "validation_rows": 1}  # fmt: skip
    recipe = {
        "name": "tiny", "output_dir": str(folder / "runs"), "model": CONFIG.model_dump(mode="json"), "sft": sft,
        "engine": {"threads": 1}, "sampling": {"image_size": [16, 16], "points": 6},
        "rl": {"noise": {"window_range": [0, 5]}}, "rewards": {"scorers": [{"name": "verifier", "kind": "verifier"}]},
    } | sections  # fmt: skip
    run = Run.create(parse_recipe(recipe))
    save_folder(world.model, world.vae, world.tokenizer, run.path(BASE))
    write_prompts(prompts_file(run, "train"), PROMPTS)
    return run

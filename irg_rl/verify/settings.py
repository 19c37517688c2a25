"""The recipe of `irg-rl verify`: small versions of the recipes for BAGEL, with the sizes of the folder."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from irg_rl.config import Recipe, changed_recipe, parse_recipe, split_override
from irg_rl.model.config import ModelConfig
from irg_rl.presets import BAGEL_SYSTEM_PROMPT, BAGEL_TEXT_TOKENS
from irg_rl.prompts import write_prompts
from irg_rl.report.strips import png
from irg_rl.trajectory import Prompt
from irg_rl.verify.pictures import disc

PROMPT = Prompt("verify", "a red circle on a grey background, left of a small blue square")
STAGE = "stage1"
ROWS, TRAINED_ROWS = "rows", 3
LORA = {"rank": 16, "alpha": 32}
RATES = {"lr": 5e-5, "gen_lr": 1e-4, "vision_lr": 0.0}


def verify_recipe(folder: Path, model: ModelConfig, scratch: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of the checks for a model folder with the sizes `model`. Prompts, rows and runs are in the
    folder `scratch`. `overrides` (key=value) replace settings.

    Images have half of the largest side, 512 pixels for BAGEL. With a GPU the model is there in bf16; otherwise it is
    on the CPU in fp32. Raises RecipeError if an override is wrong.
    """
    side = model.pixels_per_token * -(-model.max_latent_size // 2)
    gpu = {"device": "cuda", "dtype": "bf16", "activation_checkpointing": True} if torch.cuda.is_available() else {}
    settings = {
        "name": "verify", "output_dir": str(scratch / "runs"), "init_from": str(folder),
        "model": model.model_dump(mode="json"), "task": "prompts", "task_options": {"test": str(scratch / "p.jsonl")},
        "sft": {
            "data": str(scratch), "validation_rows": 1,
            STAGE: {"steps": 1, "sources": [{"folder": ROWS}], "tokens_per_pack": 8192, "max_row_tokens": 8192,
                    "lora": LORA, "optimizer": RATES},
        },
        "sampling": {"turns": 2, "max_text_tokens": BAGEL_TEXT_TOKENS, "points": 16, "shift": 3.0,
                     "image_size": [side, side], "system_prompt": BAGEL_SYSTEM_PROMPT},
        "rewards": {"scorers": [{"name": "brightness", "kind": "irg_rl.verify.brightness:Brightness"}]},
        "rl": {"updates": 1, "groups": 1, "group_size": 4, "kl_image": 1e-4, "max_pack_tokens": 32768, "lora": LORA,
               "options": {"clip_image": 1e-5}, "prompts": str(scratch / "p.jsonl"),
               "noise": {"window_size": 2, "window_range": [0, 3]},
               "optimizer": RATES},
        "engine": {"threads": torch.get_num_threads(), **gpu},
        "evaluation": {"turns": 2, "preset": "irg", "prompts": 1}, "tracking": {"wandb": False},
    }  # fmt: skip
    recipe = parse_recipe(settings, where="irg-rl verify")
    return changed_recipe(recipe, dict(map(split_override, overrides)), "irg-rl verify")


def write_data(recipe: Recipe, scratch: Path) -> None:
    """Write the prompt file and the rows of SFT that the recipe names. A row is a refinement: a think text, a green
    disc, a reflection, and a red disc."""
    write_prompts(scratch / "p.jsonl", [PROMPT])
    (scratch / ROWS).mkdir(exist_ok=True)
    rows = [json.dumps(_row(number, recipe.sampling.image_size)) for number in range(TRAINED_ROWS + 1)]
    pq.write_table(pa.table({"conversation": pa.array(rows, pa.string())}), scratch / ROWS / "part-00000.parquet")


def _row(number: int, size: tuple[int, int]) -> list[dict]:
    def image(colour: str, **flags: bool) -> dict:
        return {"type": "image", "content": base64.b64encode(png(disc(colour, size))).decode(), **flags}

    parts = [
        {"type": "text", "content": "One circle, and it is red.", "need_loss": False},
        image("green", need_vae=True, need_vit=True),
        {"type": "text", "content": "The circle is green. It must be red."},
        image("red", need_loss=True),
    ]
    user = {"role": "user", "content": f"{PROMPT.text}, version {number}", "need_loss": False}
    return [user, {"role": "assistant", "content": parts}]

"""`irg-rl generate`: draws images and writes texts for the prompts of the user. A JSON file records every setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from irg_rl.config import Recipe, SamplingRecipe, changed_recipe, parse_recipe
from irg_rl.driver.prepare import load_as
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import TRAINED, Run, RunError, write_json
from irg_rl.export.settings import exported_sections
from irg_rl.model.config import ModelConfig
from irg_rl.model.folder import WEIGHTS, Folder, is_model_folder, load_folder
from irg_rl.presets import BAGEL_SYSTEM_PROMPT, BAGEL_TEXT_TOKENS
from irg_rl.prompts import require_prompt
from irg_rl.report.strips import png, same_size, strip
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.evaluation import evaluation_sampler, evaluation_sampling
from rollouts.request import Request, never
from rollouts.sampler import Sampler

SHEET = "sheet.png"
"""Name of the picture with all images of `irg-rl generate`."""


def model_folder(target: Path) -> Path:
    """Return `target` unchanged if it is a model folder. If `target` is a run, return the newest trained model folder
    of this run. Raises RunError if `target` is neither a model folder nor a run."""
    for folder in (target, *(target / "models" / name for name in TRAINED)):
        if is_model_folder(folder):
            return folder
    raise RunError(f"{target}: not a model folder ({WEIGHTS}, whole or in shards), and not a run with a trained model")


def recipe_of(folder: Path) -> Recipe:
    """Return the recipe of the run that contains the model folder. If the folder is not in a run, return default
    settings (see the function `released`)."""
    run = folder.parent.parent
    return Run.open(run).recipe if (run / "recipe.yaml").is_file() else released(folder)


def released(folder: Path) -> Recipe:
    """Return the settings for a model folder that is not inside a run. A folder that `irg-rl export` wrote has the
    sampling settings of its run. For any other folder they are the preset `irg`, BAGEL's system prompt, and the largest
    square image that the model can draw. On a machine with a GPU the model runs there in bf16."""
    model = ModelConfig.read(folder)
    side = model.pixels_per_token * model.max_latent_size
    recipe = {
        "name": folder.name,
        "model": model.model_dump(mode="json"),
        "engine": {"device": "cuda", "dtype": "bf16"} if torch.cuda.is_available() else {},
        "sampling": {
            "image_size": [side, side],
            "max_text_tokens": BAGEL_TEXT_TOKENS,
            "system_prompt": BAGEL_SYSTEM_PROMPT,
        },
        "evaluation": {"preset": "irg"},
        **exported_sections(folder),
    }
    return parse_recipe(recipe, where=str(folder))


def load_here(folder: Path, recipe: Recipe) -> Folder:
    """Load the model in `folder`. The recipe determines the precision and the attention kernels on the GPU. If the
    recipe asks for the CPU, or if this machine has no GPU, the model is loaded on the CPU in fp32."""
    if recipe.engine.device == "cpu" or not torch.cuda.is_available():
        return load_folder(folder)
    return load_as(recipe, folder)


@dataclass(frozen=True)
class Ready:
    """A loaded checkpoint (`parts`) and its sampling settings. If `stop` is true, a trajectory ends after a reflection
    that asks for no change."""

    folder: Path
    recipe: Recipe
    parts: Folder
    stop: bool

    @property
    def sampling(self) -> SamplingRecipe:
        return evaluation_sampling(self.recipe.sampling, self.recipe.evaluation)

    @property
    def stride(self) -> int:
        """Return how many pixels one latent token covers in each direction. The height and the width of an image must
        be multiples of this number."""
        return self.parts.model.config.pixels_per_token

    def sampler(self, size: tuple[int, int] | None = None) -> Sampler:
        """Return a sampler for images of `size`, (height, width) in pixels. If `size` is None, the size in the recipe
        is used."""
        sampling = self.sampling if size is None else self.sampling.model_copy(update={"image_size": size})
        return evaluation_sampler(
            self.parts, sampling, self.recipe.evaluation, is_stop=None if self.stop else never
        )

    def settings(self, seed: int, turns: int) -> dict[str, Any]:
        """Return all settings that influence the images. They are written to settings.json."""
        evaluation, weight = self.recipe.evaluation, self.parts.model.llm2vae.weight
        noise = evaluation.noise
        return {
            "model": str(self.folder), "device": str(weight.device), "dtype": str(weight.dtype),
            "seed": seed, "turns": turns, "stop": self.stop, "preset": evaluation.preset,
            "sampling": _said(self.sampling), "guidance": evaluation.guidance.model_dump(mode="json"),
            "noise": noise and noise.model_dump(mode="json"), "batch_size": evaluation.batch_size,
        }  # fmt: skip


def make_ready(target: Path, changes: Mapping[str, Any], stop: bool) -> Ready:
    """Load a model with its sampling settings. `target` is a run or a model folder. `changes` maps names of settings
    (with dots, as in sampling.shift) to new values. They replace the values of the recipe. If `stop` is true, a
    trajectory ends after a reflection that asks for no change."""
    folder = model_folder(target).resolve()
    recipe = changed_recipe(recipe_of(folder), changes, str(folder))
    return Ready(folder, recipe, load_here(folder, recipe), stop)


def generate_to(
    target: Path, prompts: list[str], turns: int, seed: int, changes: Mapping[str, Any], out: Path, stop: bool = True
) -> None:
    """Sample one trajectory for each prompt, with at most `turns` images. Write its images as `NNN_turnK.png` and its
    texts as `NNN.txt` into the folder `out`. NNN is the number of the prompt, and K is the number of the turn. Also
    write `sheet.png`, which shows all images enlarged, one line per prompt, and `settings.json` with all settings.
    `target`, `changes` and `stop` are explained in `make_ready`."""
    asked = [Prompt(f"cli-{i}", require_prompt(text, f"--prompt {i + 1}")) for i, text in enumerate(prompts)]
    ready = make_ready(target, changes, stop)
    requests = [Request(prompt, 0, seed) for prompt in asked]
    trajectories = ready.sampler().sample(requests, turns, ready.recipe.evaluation.batch_size)
    out.mkdir(parents=True, exist_ok=True)
    records = [_write(trajectory, out, number) for number, trajectory in enumerate(trajectories)]
    write_json(out / "settings.json", {**ready.settings(seed, turns), "trajectories": records})
    sheet = same_size([strip([image.pixels.numpy() for image in t.images]) for t in trajectories])
    (out / SHEET).write_bytes(png(np.concatenate(sheet)))
    console.print(f"{len(records)} trajectories written to {out}; all of them: {out / SHEET}", soft_wrap=True)


def _said(sampling: SamplingRecipe) -> dict[str, Any]:
    """Return the sampling settings of a recipe as they are written to settings.json. The recipe's number of turns is
    left out, because the command line sets the number of turns that is really used."""
    return sampling.model_dump(mode="json", exclude={"turns"})


def _write(trajectory: Trajectory, out: Path, number: int) -> dict[str, Any]:
    """Write the images and texts of one trajectory. Return its entry for settings.json."""
    for image in trajectory.images:
        Image.fromarray(image.pixels.numpy()).save(out / f"{number:03d}_turn{image.turn}.png")
    texts = [{"turn": t.turn, "text": t.text, "finished": t.finished} for t in trajectory.texts]
    said = "\n".join(f"[{t['turn']}] {t['text']}" for t in texts)
    (out / f"{number:03d}.txt").write_text(f"{trajectory.prompt.text}\n{said}\n")
    return {
        "id": trajectory.prompt.id, "sample": trajectory.sample, "prompt": trajectory.prompt.text, "texts": texts,
        "images": trajectory.turns, "stopped": trajectory.stopped,
    }  # fmt: skip

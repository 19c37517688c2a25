"""`irg-rl generate`: images, texts and a JSON with every setting, for prompts of one's own."""

from pathlib import Path

import torch
from PIL import Image

from irg_rl.commands.measure import evaluation_sampling
from irg_rl.commands.prepare import precision
from irg_rl.commands.progress import console
from irg_rl.commands.run import Run, RunError, write_json
from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, SamplingRecipe
from irg_rl.model.folder import Folder, load_folder
from irg_rl.trajectory import Prompt
from rollouts.request import Request
from rollouts.sampler import Sampler


def model_folder(target: Path) -> Path:
    """A model folder as given, or the last one of a run."""
    for folder in (target, *(target / "models" / name for name in ("rl", "sft2", "sft1", "pretrain"))):
        if (folder / "ema.safetensors").is_file():
            return folder
    raise RunError(f"{target}: no model folder (ema.safetensors) and no run with a trained model")


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe of the run that a model folder lies in; None outside of one."""
    run = folder.parent.parent
    return Run.open(run).recipe if (run / "recipe.yaml").is_file() else None


def guidance_of(recipe: Recipe | None, scales: dict[str, float | None]) -> GuidanceRecipe:
    """That of the run's evaluation, with the scales that are given."""
    guidance = GuidanceRecipe() if recipe is None else recipe.evaluation.guidance
    guidance = guidance.model_copy(update={name: scale for name, scale in scales.items() if scale is not None})
    if guidance.image_scale > 1 >= guidance.text_scale:
        raise RunError(f"--image-scale {guidance.image_scale} does nothing without --text-scale above 1")
    return guidance


def load_here(folder: Path, recipe: Recipe | None) -> Folder:
    """On the GPU and in the precision of its run where this machine has one, else on the CPU in fp32."""
    if recipe is None or recipe.engine.device == "cpu" or not torch.cuda.is_available():
        return load_folder(folder)
    return load_folder(folder, recipe.engine.device, precision(recipe))


def generate_to(
    target: Path, prompts: list[str], turns: int, seed: int, scales: dict[str, float | None], out: Path
) -> None:
    """Sample every prompt and write `NNN_turnK.png`, `NNN.txt` and `settings.json` into `out`."""
    folder = model_folder(target).resolve()
    recipe = recipe_of(folder)
    evaluation, sampling = (
        (EvaluationRecipe(), SamplingRecipe()) if recipe is None else (recipe.evaluation, recipe.sampling)
    )
    sampling, guidance = evaluation_sampling(sampling, evaluation), guidance_of(recipe, scales)
    parts = load_here(folder, recipe)
    sampler = Sampler(
        parts.model.eval(), parts.autoencoder, parts.tokenizer, sampling, guidance=guidance if guidance.is_on else None
    )
    requests = [Request(Prompt(f"cli-{i}", text), 0, seed) for i, text in enumerate(prompts)]
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for number, trajectory in enumerate(sampler.sample(requests, turns)):
        for image in trajectory.images:
            Image.fromarray(image.pixels.numpy()).save(out / f"{number:03d}_turn{image.turn}.png")
        texts = [{"turn": t.turn, "text": t.text, "finished": t.finished} for t in trajectory.texts]
        records.append({"prompt": trajectory.prompt.text, "texts": texts, "images": trajectory.turns,
                        "stopped": trajectory.stopped})  # fmt: skip
        said = "\n".join(f"[{t['turn']}] {t['text']}" for t in texts)
        (out / f"{number:03d}.txt").write_text(f"{trajectory.prompt.text}\n{said}\n")
    settings = {
        "model": str(folder), "device": str(sampler.device), "seed": seed, "turns": turns,
        "sampling": sampling.model_dump(mode="json"), "guidance": guidance.model_dump(mode="json"),
    }  # fmt: skip
    write_json(out / "settings.json", {**settings, "trajectories": records})
    console.print(f"{len(records)} trajectories written to {out}")

"""`irg-rl generate`: images, texts and a JSON with every setting, for prompts of one's own."""

from pathlib import Path

from PIL import Image

from irg_rl.commands.progress import console
from irg_rl.commands.run import RunError, write_json
from irg_rl.config import SamplingRecipe, load_recipe
from irg_rl.model.folder import load_folder
from irg_rl.trajectory import Prompt
from rollouts.request import Request
from rollouts.sampler import Sampler


def model_folder(target: Path) -> Path:
    """A model folder as given, or the last one of a run."""
    for folder in (target, *(target / "models" / name for name in ("rl", "sft2", "sft1", "pretrain"))):
        if (folder / "ema.safetensors").is_file():
            return folder
    raise RunError(f"{target}: no model folder (ema.safetensors) and no run with a trained model")


def generate_to(target: Path, prompts: list[str], turns: int, seed: int, out: Path) -> None:
    """Sample every prompt and write `NNN_turnK.png`, `NNN.txt` and `settings.json` into `out`."""
    folder = model_folder(target)
    recipe = folder.parent.parent / "recipe.yaml"
    sampling = load_recipe(recipe).sampling if recipe.is_file() else SamplingRecipe()
    parts = load_folder(folder)
    sampler = Sampler(parts.model.eval(), parts.autoencoder, parts.tokenizer, sampling)
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
    settings = {"model": str(folder), "seed": seed, "turns": turns, "sampling": sampling.model_dump(mode="json")}
    write_json(out / "settings.json", {**settings, "trajectories": records})
    console.print(f"{len(records)} trajectories written to {out}")

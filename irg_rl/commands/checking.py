"""`irg-rl check`: read a recipe, build its model on the meta device, look for what it needs of the machine."""

from pathlib import Path

import torch

from irg_rl.config import Recipe, RecipeError, load_recipe
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel
from sft.dataset import DataError, Rejections, RowSource


def machine_problems(recipe: Recipe) -> list[str]:
    """What the recipe needs and this machine lacks."""
    problems = []
    if recipe.engine.device == "cuda" and not torch.cuda.is_available():
        problems.append("engine.device is cuda, but no GPU is visible: use a GPU machine or engine.device=cpu")
    if recipe.init_from is not None and not Path(recipe.init_from).is_dir():
        problems.append(f"init_from: {recipe.init_from} is not a folder in the released layout")
    if recipe.sft is not None and recipe.sft.data is not None:
        for name, stage in recipe.sft.stages.items():
            for source in stage.sources:
                try:
                    RowSource(Path(recipe.sft.data) / source.folder, recipe.seed, Rejections())
                except DataError as error:
                    problems.append(f"sft.{name}.sources: {error}")
    for scorer in recipe.rewards.scorers:
        if scorer.path is not None and not Path(scorer.path).exists():
            problems.append(f"rewards.scorers: {scorer.name} finds no model at {scorer.path}")
    if recipe.rl is not None and recipe.rl.prompts is not None and not Path(recipe.rl.prompts).is_file():
        problems.append(f"rl.prompts: {recipe.rl.prompts} is not a file of prompts (jsonl)")
    return problems


def require_machine(recipe: Recipe) -> None:
    problems = machine_problems(recipe)
    if problems:
        raise RecipeError(f"{recipe.name}: {len(problems)} problem(s)\n" + "\n".join(f"  {p}" for p in problems))


def check_recipe(path: Path, overrides: list[str]) -> list[str]:
    """Lines that say what the recipe is. Raises RecipeError with every problem of its settings."""
    recipe = load_recipe(path, overrides)
    with torch.device("meta"):
        model = UnifiedModel(recipe.model, SpecialIds(0, 1, 2, 3))
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"{recipe.name}: well-formed, digest {recipe.digest()}",
        f"{parameters / 1e6:,.1f} M parameters, {recipe.model.pixels_per_token} pixels per latent token",
        f"stages: {', '.join(name for name, on in (('sft', recipe.sft), ('rl', recipe.rl)) if on) or 'none'}",
    ]
    return lines + [f"not on this machine: {problem}" for problem in machine_problems(recipe)]

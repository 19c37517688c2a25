"""`irg-rl check`: checks a recipe. It counts the parameters of the recipe's model without loading the model. It lists
what the recipe needs but this machine does not have. Where the recipe's model folder is on this machine, it also tries
one of everything that a run does (see irg_rl/driver/trial.py)."""

import torch

from irg_rl.config import adapters_of, load_recipe
from irg_rl.driver.checks import machine_problems, recipe_problems, refuse
from irg_rl.driver.trial import Outcome, try_everything
from irg_rl.learner.lora import adapter_size
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel


def check_recipe(
    path: str, overrides: list[str], tries: bool = True, elsewhere: bool = False
) -> tuple[list[str], bool]:
    """Check a recipe. Return lines of text that describe it and list what is missing on this machine, and whether a run
    can work here: nothing is missing, and everything that was tried works. If `tries` is true, one of everything that a
    run does is tried, as far as this machine has what it needs. If `elsewhere` is true, the run is meant for another
    machine: only the recipe itself is checked. Raises RecipeError if settings of the recipe are invalid. The error
    lists all invalid settings."""
    recipe = load_recipe(path, overrides)
    refuse(recipe, recipe_problems(recipe))
    with torch.device("meta"):
        model = UnifiedModel(recipe.model, SpecialIds(0, 1, 2, 3))
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"{recipe.name}: well-formed, digest {recipe.digest()}",
        f"{parameters / 1e6:,.1f} M parameters, {recipe.model.pixels_per_token} pixels per latent token",
        f"stages: {', '.join(name for name, on in (('sft', recipe.sft), ('rl', recipe.rl)) if on) or 'none'}",
    ]
    lines += [
        f"{place}: LoRA trains {adapter_size(model, lora) / 1e6:,.1f} M numbers of rank {lora.rank} on the "
        f"{' and '.join(lora.experts)} expert{'s' if len(lora.experts) > 1 else ''}"
        for place, trained in recipe.trained.items()
        if (lora := adapters_of(trained)) is not None
    ]
    lines += [
        f"sft.{name}: {ranks} of {recipe.most_sft_ranks} learner ranks train it; more packs_per_step, more ranks"
        for name, stage in (recipe.sft.stages if recipe.sft is not None else {}).items()
        if (ranks := recipe.sft_ranks(stage)) < recipe.most_sft_ranks
    ]
    if elsewhere:
        return lines, True
    missing = machine_problems(recipe)
    tried = try_everything(recipe) if tries else []
    works = not missing and all(one.outcome is not Outcome.FAILS for one in tried)
    return [*lines, *(f"not on this machine: {problem}" for problem in missing), *map(str, tried)], works

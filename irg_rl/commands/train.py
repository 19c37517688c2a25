"""`irg-rl train`: runs a recipe in a new run folder."""

from irg_rl.config import load_recipe
from irg_rl.driver.checks import require_machine
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import work


def train(recipe_name: str, overrides: list[str]) -> None:
    """Run all stages of the recipe, from the first one to the report, in a new run folder. `overrides` replace settings
    of the recipe."""
    recipe = load_recipe(recipe_name, overrides)
    require_machine(recipe)
    work(Run.create(recipe))

"""`irg-rl ls`: shipped recipes, recipes in ./configs, and runs."""

from pathlib import Path

from rich.table import Table

from irg_rl.config import RecipeError, recipe_settings
from irg_rl.config.shipped import shipped_recipes
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError


def show_lists() -> None:
    table = Table("recipe", "what it is", "stages", title="recipes")
    for row in recipes():
        table.add_row(*row)
    console.print(table)
    if rows := runs(Path("runs")):
        table = Table("run", "digest", "done", "last", title="runs")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def recipe_files() -> dict[str, Path]:
    """What a person types -> file: shipped recipes by name, those in ./configs by path."""
    shipped = shipped_recipes()
    known = {file.resolve() for file in shipped.values()}
    own = [file for file in sorted(Path("configs").glob("*.yaml")) if file.resolve() not in known]
    return shipped | {str(file): file for file in own}


def recipes() -> list[tuple[str, str, str]]:
    """Name, description and stages of every recipe."""
    rows = []
    for name, file in recipe_files().items():
        try:
            settings = recipe_settings(file)
        except RecipeError as error:
            rows.append((name, f"unreadable: {str(error).splitlines()[0]}", ""))
            continue
        stages = [stage for stage in ("sft", "rl") if settings.get(stage)]
        rows.append((name, settings.get("description", ""), ", ".join(stages)))
    return rows


def runs(folder: Path) -> list[tuple[str, str, str, str]]:
    """Folder, digest, number of finished stages and the last of them, of every run."""
    rows = []
    for path in sorted(folder.glob("*/recipe.yaml")):
        try:
            run = Run.open(path.parent)
        except RunError as error:
            rows.append((str(path.parent), "?", "unreadable", str(error).splitlines()[0]))
            continue
        done = [name for name, entry in run.stages.items() if entry.get("done")]
        rows.append((str(path.parent), run.recipe.digest(), str(len(done)), done[-1] if done else "-"))
    return rows

"""What `irg-rl ls` shows: recipes beside the package or in ./configs, and runs."""

from pathlib import Path

from irg_rl.commands.run import Run, RunError
from irg_rl.config import RecipeError, recipe_settings

PACKAGED = Path(__file__).resolve().parents[2] / "configs"


def recipe_files() -> list[Path]:
    folders = {folder.resolve() for folder in (Path("configs"), PACKAGED) if folder.is_dir()}
    return sorted(file for folder in folders for file in folder.glob("*.yaml"))


def recipes() -> list[tuple[str, str, str]]:
    rows = []
    for file in recipe_files():
        try:
            settings = recipe_settings(file)
        except RecipeError as error:
            rows.append((str(file), f"unreadable: {str(error).splitlines()[0]}", ""))
            continue
        stages = [name for name in ("sft", "rl") if settings.get(name)]
        rows.append((str(file), settings.get("description", ""), ", ".join(stages)))
    return rows


def runs(folder: Path) -> list[tuple[str, str, str, str]]:
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

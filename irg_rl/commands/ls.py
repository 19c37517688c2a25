"""`irg-rl ls`: lists the recipes that come with irg-rl, the recipes in ./configs, and the runs in ./runs."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.cells import cell_len

from irg_rl.config import recipe_settings
from irg_rl.config.shipped import shipped_recipes
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run
from irg_rl.errors import UserError
from irg_rl.text_out import shown


def show_lists() -> None:
    show_rows(("recipe", "stages", "what it is"), recipes())
    if found := runs(Path("runs")):
        console.print()
        show_rows(("run", "digest", "done", "last"), found)


def show_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text as a table without a frame. Paths are never cut, so a line may be wider than the terminal."""
    lines = [[shown(" ".join(word.split())) for word in row] for row in (titles, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        padded = [word + " " * (width - cell_len(word)) for word, width in zip(line, widths, strict=True)]
        console.print("  ".join(padded).rstrip(), style=None if number else "bold")


def recipe_files() -> dict[str, Path]:
    """Return name -> file for every recipe. Users type this name in commands. It is the short name of a recipe that
    comes with irg-rl, or the path of a recipe in ./configs."""
    shipped = shipped_recipes()
    known = {file.resolve() for file in shipped.values()}
    own = [file for file in sorted(Path("configs").glob("*.yaml")) if file.resolve() not in known]
    return shipped | {str(file): file for file in own}


def recipes() -> list[tuple[str, str, str]]:
    """Return (name, stages, description) for every recipe. If a recipe cannot be read, the error message replaces the
    description."""
    rows = []
    for name, file in recipe_files().items():
        try:
            settings = OmegaConf.to_container(recipe_settings(file), resolve=False)
        except (UserError, OSError) as error:
            rows.append((name, "-", f"unreadable: {str(error).splitlines()[0]}"))
            continue
        if not isinstance(settings, dict) or not {"name", "model"} & settings.keys():
            rows.append((name, "-", "no recipe: it has neither a name nor a model"))
            continue
        stages = [stage for stage in ("sft", "rl") if settings.get(stage)]
        rows.append((name, ", ".join(stages) or "-", str(settings.get("description", ""))))
    return rows


def runs(folder: Path) -> list[tuple[str, str, str, str]]:
    """Return (folder, short hash of the recipe, number of finished stages, last finished stage) for every run in
    `folder`. If a run is damaged, the last value is the error message."""
    rows = []
    for path in sorted(folder.glob("*/recipe.yaml")):
        try:
            run = Run.open(path.parent)
        except (UserError, OSError) as error:
            rows.append((str(path.parent), "?", "?", f"unreadable: {str(error).splitlines()[0]}"))
            continue
        done = [name for name, entry in run.stages.items() if entry.get("done")]
        rows.append((str(path.parent), run.recipe.digest(), str(len(done)), done[-1] if done else "-"))
    return rows

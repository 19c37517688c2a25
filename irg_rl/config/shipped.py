"""Find the recipes that come with the program. They are in `configs/` of a checkout, and in `irg_rl/recipes/` of an
installed wheel. `pyproject.toml` maps the first folder to the second."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Return all shipped recipes: name -> file, sorted by name."""
    installed = PACKAGE / "recipes"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def recipe_path(named: str | Path) -> Path:
    """Return the file of a recipe. `named` is a path, or the name of a shipped recipe such as `shapes-smoke`.

    If a file exists at the path, that file is used. If there is neither a file nor a shipped recipe, the path is
    returned unchanged. Reading it later raises the error.
    """
    path = Path(named)
    if path.exists() or path.parent != Path():
        return path
    return shipped_recipes().get(path.name.removesuffix(".yaml"), path)

"""Find the recipes that come with the program. They are in `configs/` of a checkout, and in `irg_rl/recipes/` of an
installed wheel. `pyproject.toml` maps the first folder to the second. Recipes of runs are in this folder itself, and
recipes of data sets in its folder `data`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Return all shipped recipes of runs: name -> file, sorted by name."""
    return {file.stem: file for file in sorted(_folder().glob("*.yaml"))}


def shipped_data_recipes() -> dict[str, Path]:
    """Return all shipped recipes of data sets: name -> file, sorted by name."""
    return {file.stem: file for file in sorted((_folder() / "data").glob("*.yaml"))}


def _folder() -> Path:
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def recipe_path(named: str | Path) -> Path:
    """Return the file of a recipe. `named` is a path, or the name of a shipped recipe such as `shapes-smoke`.

    If a file exists at the path, that file is used. If there is neither a file nor a shipped recipe, the path is
    returned unchanged. Reading it later raises the error.
    """
    return _found(named, shipped_recipes())


def data_recipe_path(named: str | Path) -> Path:
    """Return the file of a data recipe. `named` is a path, or the name of a shipped data recipe. The rules are those of
    `recipe_path`."""
    return _found(named, shipped_data_recipes())


def _found(named: str | Path, shipped: dict[str, Path]) -> Path:
    path = Path(named)
    if path.exists() or path.parent != Path():
        return path
    return shipped.get(path.name.removesuffix(".yaml"), path)

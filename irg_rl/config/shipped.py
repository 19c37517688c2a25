"""The recipes that come with the program: in `configs/` of a checkout, in `irg_rl/recipes/` of an installed wheel.
`pyproject.toml` maps the first folder to the second."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    installed = PACKAGE / "recipes"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def recipe_path(named: str | Path) -> Path:
    """The file of a recipe, given as a path or as the name of a shipped recipe such as `shapes-smoke`.

    An existing file of that path wins. If there is neither, the path is returned and reading it raises the error.
    """
    path = Path(named)
    if path.exists() or path.parent != Path():
        return path
    return shipped_recipes().get(path.name.removesuffix(".yaml"), path)

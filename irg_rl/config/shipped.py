"""The recipes that come with the program. They lie in `configs/` of a checkout and in `irg_rl/recipes/` of an installed
wheel; `pyproject.toml` maps one to the other."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    installed = PACKAGE / "recipes"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def recipe_path(named: str | Path) -> Path:
    """The file that a person means: a path, or the name of a shipped recipe such as `shapes-smoke`.

    A file of that path comes first. What is neither is returned as it is, for the reader to complain about.
    """
    path = Path(named)
    if path.exists() or path.parent != Path():
        return path
    return shipped_recipes().get(path.name.removesuffix(".yaml"), path)

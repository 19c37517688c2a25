"""`irg-rl cp`: copies a recipe that comes with irg-rl to a new file that the user can edit."""

from pathlib import Path

from irg_rl.config import recipe_settings
from irg_rl.config.shipped import data_recipe_path, recipe_path
from irg_rl.errors import InputError


def copy_recipe(name: str, target: Path | None) -> Path:
    """Copy the recipe `name` of a run or a data set to the file or folder `target`, and return the path of the new
    file. If `target` is None, the file is NAME.yaml in the current folder. Raises InputError if the new file already
    exists."""
    source = recipe_path(name)
    if not source.exists():
        source = data_recipe_path(name)
    recipe_settings(source)  # raises an error if there is no such recipe
    target = Path(source.name) if target is None else target
    if target.is_dir():
        target /= source.name
    try:
        with target.open("x", encoding="utf-8") as out:
            out.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise InputError(f"{target} exists; name another file, as in `irg-rl cp {name} mine.yaml`") from error
    return target

"""`irg-rl cp`: a shipped recipe as a file of one's own."""

from pathlib import Path

from irg_rl.config import recipe_settings
from irg_rl.config.shipped import recipe_path
from irg_rl.errors import InputError


def copy_recipe(name: str, target: Path | None) -> Path:
    """Copy recipe `name` to `target`, by default NAME.yaml here. InputError where that file exists."""
    source = recipe_path(name)
    recipe_settings(source)  # complains about a recipe that is not there
    target = Path(source.name) if target is None else target
    if target.is_dir():
        target /= source.name
    try:
        with target.open("x", encoding="utf-8") as out:
            out.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise InputError(f"{target} exists; name another file, as in `irg-rl cp {name} mine.yaml`") from error
    return target

"""Read recipes from files, and apply overrides (new values for single settings). Error messages name the wrong setting.
For an unknown setting, they suggest the known setting with the most similar name."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from irg_rl.config.explain import explain
from irg_rl.config.recipe import Recipe
from irg_rl.config.rl import OPTIONS_OF, drop_options_of_others
from irg_rl.config.shipped import recipe_path, shipped_recipes
from irg_rl.errors import InputError, UserError
from irg_rl.imports import remember_folders
from irg_rl.presets import presets_first
from irg_rl.text_in import require_text

SHORT_NAMES = {"turns": "sampling.turns", "prompts": "evaluation.prompts"}
"""Short name of a setting that is often overridden -> its full name."""


class RecipeError(UserError, ValueError):
    """The recipe cannot be run. The message lists every problem, one per line."""


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, apply overrides of the form `key.sub=value`, and validate the result. `path` is a file, or the
    name of a shipped recipe.

    Raises RecipeError with every problem that was found. The message names each wrong setting. For an unknown setting,
    it suggests the known setting with the most similar name.
    """
    file = recipe_path(path)
    base = recipe_settings(file)
    remember_folders(file.parent)
    for key, value in _names_first(presets_first(map(split_override, overrides))):
        try:
            drop_options_of_others(base.get("rl"), _settings_of_rl(key, value))
            OmegaConf.update(base, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
            raise RecipeError(f"'{key}={value}': cannot be applied: {error}") from error
    try:
        data = OmegaConf.to_container(base, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {error}") from error
    return parse_recipe(data, where=str(path))


def recipe_settings(path: Path, beneath: tuple[Path, ...] = ()) -> DictConfig:
    """Return the settings of a recipe file. A file may have the key `extends`. Its value is another recipe: a path
    relative to the file, or the name of a shipped recipe. Then the settings of both recipes are joined. If a setting is
    in both recipes, the value in this file is used.

    A list in this file replaces the whole list of the other recipe. The settings are not validated. `beneath` lists the
    files that led to this file through `extends`. Raises RecipeError if a file is missing, is not readable, or extends
    itself.
    """
    if path.resolve() in map(Path.resolve, beneath):
        raise RecipeError(f"{beneath[0]}: extends: {' -> '.join(map(str, (*beneath, path)))} never ends")
    if not path.exists():
        asking = f"{beneath[-1]}: extends: " if beneath else ""
        near = nearest_shipped(path.name.removesuffix(".yaml"), shipped_recipes())
        raise RecipeError(f"{asking}{path}: no such recipe{near}; `irg-rl ls` lists all")
    try:
        settings = OmegaConf.load(path)  # also refuses a setting that is given twice
    except RecursionError as error:
        raise RecipeError(f"{path}: not readable as YAML: it is nested too deep, or contains itself") from error
    except AssertionError as error:  # OmegaConf raises this for a file that is one quoted word
        raise RecipeError(f"{path}: a recipe is a mapping of settings, this is a word") from error
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, AttributeError, OSError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(settings, DictConfig):
        raise RecipeError(f"{path}: 1 problem(s)\n  a recipe is a mapping of settings, this is a list")
    try:
        extended = settings.pop("extends", None)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: extends: {error}") from error
    if extended is None:
        return settings
    if not isinstance(extended, str):
        raise RecipeError(f"{path}: extends: {extended!r} is not the name of one recipe file")
    below = path.parent / extended  # a copy made by `irg-rl cp` extends the shipped recipe
    below = below if below.exists() else recipe_path(extended)
    lower = recipe_settings(below, (*beneath, path))
    try:
        drop_options_of_others(lower.get("rl"), settings.get("rl"))
        merged = OmegaConf.merge(lower, settings)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise RecipeError(f"{path}: does not fit what it extends: {error}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _settings_of_rl(key: str, value: Any) -> Mapping[str, Any]:
    """Return the settings of section `rl` that an override changes, as a mapping. The mapping is empty if the override
    changes no setting of `rl`."""
    if key == "rl":
        return value if isinstance(value, Mapping) else {}
    section, _, name = key.partition(".")
    return {name: value} if section == "rl" else {}


def _names_first(overrides: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the overrides in the order in which they must be applied: first those that name an algorithm or a credit
    scheme, then all others. Applying such a name removes the options of the old algorithm or scheme. After that,
    options of the new one can be set."""
    names = {f"rl.{name}" for name in OPTIONS_OF}
    return sorted(overrides, key=lambda override: override[0] not in names)


def nearest_shipped(name: str, shipped: Iterable[str]) -> str:
    """Return the end of an error message about a missing recipe. The text suggests the one of the shipped recipes
    whose name is most similar to `name`. Returns an empty string if no name is similar."""
    near = difflib.get_close_matches(name, list(shipped), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def changed_recipe(recipe: Recipe, settings: Mapping[str, Any], where: str) -> Recipe:
    """Return a copy of the recipe with some settings replaced. `settings` maps dotted names, such as rl.updates, to the
    new values. `where` is the name of the recipe in error messages. Raises the same errors as `load_recipe`."""
    data = recipe.model_dump(mode="json")
    for key, value in _names_first(presets_first(settings.items())):
        drop_options_of_others(data.get("rl"), _settings_of_rl(key, value))
        *sections, name = key.split(".")
        place = data
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}  # an optional section, or an unknown one, which validation reports
            place = place[section]
        place[name] = value
    return parse_recipe(data, where)


def split_override(override: str, short: Mapping[str, str] = SHORT_NAMES) -> tuple[str, Any]:
    """Split `key=value` into the dotted name and the value. `short` maps short names of settings to their full names.
    Raises RecipeError if the override has another form."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"{override!r}: an override is written key=value, for example rl.updates=20")
    try:
        return short.get(key, key), yaml.safe_load(value)
    except YAMLError as error:
        raise RecipeError(f"{override!r}: cannot be applied: {error}") from error


def parse_recipe(data: object, where: str = "recipe") -> Recipe:
    """Validate `data`, which should be a mapping of settings, and return it as a Recipe. Raises the same errors as
    `load_recipe`."""
    _require_text(data, where)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in explain(problem, Recipe)]
        raise RecipeError(f"{where}: {len(lines)} problem(s)\n" + "\n".join(f"  {line}" for line in lines)) from error


def _require_text(settings: Any, where: str) -> None:
    """Raise RecipeError if a name or a value has a character that cannot be written to a file: a lone surrogate or a
    control character."""
    level = [settings]
    while level:
        words = [word for one in level if isinstance(one, dict) for word in one] + level
        for word in words:
            if isinstance(word, str):
                try:
                    require_text(word, where, control=False)
                except InputError as error:
                    raise RecipeError(f"{error} (in {word!r:.80})") from error
        level = [
            inner for one in level if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip

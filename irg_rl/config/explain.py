"""Turn the errors of pydantic into readable lines. Each line names a setting. If this setting is unknown, the line also
suggests the known setting with the most similar name."""

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel


class ExplainedError(ValueError):
    """A section of a recipe has mistakes. `lines` has one line per mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def explain(problem: Any, root: type[BaseModel], prefix: str = "") -> list[str]:
    """Return readable lines about one entry of pydantic's `errors()`. `root` is the class of the section that was
    validated. `prefix` is the name of the setting that holds this section."""
    location = [str(part) for part in problem["loc"]]
    setting = ".".join([*([prefix] if prefix else []), *location])
    if problem["type"] == "extra_forbidden":
        known = _known_settings(location[:-1], root)
        if elsewhere := _places_of(location[-1], root):
            above = f"{prefix}." if prefix else ""
            return [f"{setting}: unknown setting; did you mean {' or '.join(above + one for one in elsewhere)}?"]
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        if near:
            place = ".".join(setting.split(".")[:-1] + [near[0]])
            return [f"{setting}: unknown setting; did you mean {place}?"]
        return [f"{setting}: unknown setting; known here: {', '.join(known)}"]
    if problem["type"] == "value_error":
        error = problem.get("ctx", {}).get("error")
        if isinstance(error, ExplainedError):
            return error.lines
        lines = problem["msg"].removeprefix("Value error, ").splitlines()
        return [f"{setting}: {line}" if setting else line for line in lines]
    value = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    return [f"{setting or 'the recipe'}: {problem['msg']}{value}"]


def unknown_setting(name: str, root: type[BaseModel], prefix: str) -> list[str]:
    """Return a readable line if there is no setting with the dotted name `name` in the section class `root`, else an
    empty list. `prefix` is put before the name. What is inside free settings (such as options) is not checked."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        known = _known_settings(parts[:place], root)
        if known and part not in known:
            return explain({"type": "extra_forbidden", "loc": parts[: place + 1]}, root, prefix)
    return []


def _known_settings(location: list[str], root: type[BaseModel]) -> list[str]:
    """Return the sorted names of all settings in the section at `location`, starting from the section class `root`.
    `location` lists the names from the outermost section to the innermost. The section may be inside lists, dicts and
    optional sections."""
    current: type[BaseModel] | None = root
    for part in location:
        if current is None:
            return []
        if part in current.model_fields:
            current = _section_of(current.model_fields[part].annotation)
    return sorted(current.model_fields) if current is not None else []


def _places_of(name: str, section: type[BaseModel], above: tuple[type[BaseModel], ...] = ()) -> list[str]:
    """Return the dotted names of all settings called `name` in a section and in the sections inside it. `above` lists
    the sections around it, so that a section that contains itself ends."""
    places = []
    for setting, field in section.model_fields.items():
        if setting == name:
            places.append(setting)
        inner = _section_of(field.annotation)
        if inner is not None and inner not in above:
            places += [f"{setting}.{place}" for place in _places_of(name, inner, (*above, section))]
    return places


def _section_of(annotation: Any) -> type[BaseModel] | None:
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if is_class and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _section_of(argument)
        if found is not None:
            return found
    return None

"""Generate the reference of all settings from the classes that validate them."""

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from irg_rl.config import Recipe
from irg_rl.config.data import DataRecipe
from irg_rl.config.rl import ALGORITHMS, algorithm_class
from irg_rl.config.task import TASKS, task_class
from irg_rl.credit import SCHEMES, scheme_named
from irg_rl.sections import PathText
from irg_rl.studies.catalog import STUDIES

Model = type[BaseModel]
Places = dict[Model, list[str]]
"""Class of a section -> the dotted names under which it stands, such as sft.stage1.optimizer and rl.optimizer."""

IS_PATH = get_args(PathText)[1]
ANY_NAME = "NAME"
"""Stands for a key of a mapping or an entry of a list in a dotted name."""

INTRODUCTION = """# Settings

This page is generated from the code (`irg_rl/config/`). A setting is written in a recipe file, in its section, or on
the command line with its dotted name: `irg-rl train shapes rl.updates=20`. [Recipes](recipes.md) explains how the
sections fit together.
"""


def settings_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION, *_tree("Recipe of a run", Recipe)]
    options = [
        *((f"rl.options of {name}", algorithm_class(name).Settings) for name in ALGORITHMS),
        *((f"rl.credit_options of {name}", scheme_named(name).options) for name in SCHEMES),
        *((f"task_options of {name}", task_class(name).settings_type) for name in TASKS),
    ]
    parts.append("## Options of algorithms, credit schemes and tasks\n")
    for title, section in options:
        parts += _section(title, section, {})
    parts.append("## Studies\n\nSettings of `irg-rl study NAME`, written `study.key=value`.\n")
    for name, study in STUDIES.items():
        parts += _section(f"study {name}", study.settings_type, {})
    parts += _tree("Recipe of a data set", DataRecipe, "data: ")
    return "\n".join(parts)


def sections_in(root: Model) -> Places:
    """Return all sections of a recipe in the order in which they first appear, each with all of its places."""
    places: Places = {}

    def visit(section: Model, place: str) -> None:
        places.setdefault(section, []).append(place)
        for name, field in section.model_fields.items():
            for inner, suffix in _inner_sections(field.annotation):
                visit(inner, f"{place}.{name}{suffix}".lstrip("."))

    visit(root, "")
    return places


def _tree(title: str, root: Model, before: str = "") -> Iterator[str]:
    places = sections_in(root)
    titles = {section: f"{before}{where[0] or 'top level'}" for section, where in places.items()}
    yield f"## {title}\n"
    for section, where in places.items():
        yield from _section(titles[section], section, titles, where[1:])


def _section(title: str, section: Model, titles: dict[Model, str], also: Sequence[str] = ()) -> Iterator[str]:
    yield f"### {title}\n"
    if section.__doc__:
        yield inspect.cleandoc(section.__doc__).replace("<", "&lt;") + "\n"
    if also:
        yield f"The same settings: {', '.join(f'`{one}`' for one in also)}.\n"
    rows = [_row(name, field, titles) for name, field in section.model_fields.items()]
    if not rows:
        yield "There are no settings.\n"
        return
    yield "| setting | values | default | meaning |\n|---|---|---|---|"
    yield "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo, titles: dict[Model, str]) -> str:
    inside = [titles[inner] for inner, _ in _inner_sections(field.annotation) if inner in titles]
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    values = [type_text(kind), *(f"[{title}](#{_anchor(title)})" for title in inside)]
    return table_row(f"`{name}`", "; ".join(values), default_text(field), plain(field.description or ""))


def default_text(field: FieldInfo) -> str:
    """Return the default of a setting as it would be written in a recipe."""
    if field.is_required():
        return "required"
    default = field.default
    if default is PydanticUndefined or isinstance(default, BaseModel):
        return "its defaults"
    if isinstance(default, str) and (len(default) > 60 or "\n" in default):
        return "a long text"
    if default is None or isinstance(default, bool | int | float | str):
        written = yaml.safe_dump(default, width=1000).removesuffix("...\n").strip() if default != "" else '""'
    else:
        simple = default if isinstance(default, dict) else list(default)
        written = yaml.safe_dump(simple, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return f"`{written}`"


def bound_text(bound: Any) -> str:
    """Return a bound in words, such as `≥ 0`. It is empty for anything that is not a bound."""
    match bound:
        case Ge(ge=limit):
            return f"≥ {limit:g}"
        case Gt(gt=limit):
            return f"> {limit:g}"
        case Le(le=limit):
            return f"≤ {limit:g}"
        case Lt(lt=limit):
            return f"< {limit:g}"
        case MinLen(min_length=limit):
            return f"length ≥ {limit}"
        case FieldInfo(metadata=inside):
            return ", ".join(filter(None, map(bound_text, inside)))
        case _:
            return ""


def type_text(kind: Any) -> str:
    """Return in words which values a setting takes, bounds of inner types included."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        name = "path" if IS_PATH in inner else type_text(inner[0])
        return ", ".join(filter(None, [name, *map(bound_text, inner[1:])]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        words = [type_text(one) for one in inner if one is not type(None)]
        return " or ".join([*words, *(["`null`"] if type(None) in inner else [])])
    if origin is list or (origin is tuple and inner[1:] == (...,)):
        return f"list of: {type_text(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {type_text(inner[0])}"
    if origin is dict:
        return f"mapping of {type_text(inner[0])} to: {type_text(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    Any: "anything",
}


def _inner_sections(kind: Any) -> Iterator[tuple[Model, str]]:
    """Yield the sections inside a type, each with the suffix that a dotted name needs to reach it."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
        if kind.model_fields:
            yield kind, ""
        return
    origin = get_origin(kind)
    for inner in get_args(kind) if origin is not Literal else ():
        deeper = f".{ANY_NAME}" if origin in (list, dict, tuple) else ""
        for section, suffix in _inner_sections(inner):
            yield section, deeper + suffix


def plain(text: str) -> str:
    """Return a docstring or a help text as one line of Markdown."""
    return " ".join(text.split()).replace("<", "&lt;")


def table_row(*cells: str) -> str:
    """Return a row of a table in Markdown. A stroke in a cell must be in code, or it would end the cell."""
    return f"| {' | '.join(cells)} |"


def _anchor(title: str) -> str:
    """Return the anchor that mkdocs gives a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in "_- ")
    return kept.strip().replace(" ", "-")

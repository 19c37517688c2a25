"""Generate the reference of all commands from the functions that declare them."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from handbook.settings import plain, table_row, type_text
from irg_rl.commands.cli import app

INTRODUCTION = """# Commands

This page is generated from the code (`irg_rl/commands/`). `irg-rl COMMAND --help` prints the same. A command that fails
prints one line that says what happened and what to do, and ends with exit code 1. Ctrl-C ends with 130. A run that a
signal has ended ends with 75, and `irg-rl resume` continues it.
"""


@dataclass(frozen=True)
class Word:
    """An argument or an option of a command. `kind` is the type of its value."""

    name: str
    kind: Any
    default: Any
    info: ArgumentInfo | OptionInfo

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> "Word":
        kind, info = get_args(parameter.annotation)[:2]
        return cls(parameter.name, kind, parameter.default, info)

    @property
    def is_argument(self) -> bool:
        return isinstance(self.info, ArgumentInfo)

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def is_repeated(self) -> bool:
        return any(get_origin(kind) is list for kind in (self.kind, *get_args(self.kind)))

    @property
    def written(self) -> list[str]:
        """How the word is written in a command line. A switch has two forms: on and off."""
        if self.is_argument:
            word = self.info.metavar or self.name.upper() + "..." * self.is_repeated
            return [word if self.is_required or word.startswith("[") else f"[{word}]"]
        option = f"--{self.name.replace('_', '-')}"
        given = [self.info.default, *(self.info.param_decls or ())]  # typer keeps the first name as the default
        if declared := [name for name in given if isinstance(name, str) and name.startswith("-")]:
            return declared
        return [option, option.replace("--", "--no-", 1)] if self.is_switch else [option]

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    def row(self) -> str:
        limits = ((self.info.min, "≥ {:g}"), (self.info.max, "≤ {:g}"))
        values = ["switch" if self.is_switch else type_text(without_null(self.kind))]
        values += [text.format(limit) for limit, text in limits if limit is not None]
        names = ", ".join(f"`{name}`" for name in self.written)
        return table_row(names, ", ".join(values), self._default(), plain(self.info.help or ""))

    def _default(self) -> str:
        if self.is_required:
            return "required"
        if self.is_switch:
            return f"`{self.written[0 if self.default else -1]}`" if len(self.written) > 1 else "off"
        return "" if self.default in (None, "") else f"`{self.default}`"


def without_null(kind: Any) -> Any:
    """Return a type without None. Whether a word may be left out is said by its default."""
    if get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    [known] = [one for one in get_args(kind) if one is not type(None)]
    return known


def all_commands(program: typer.Typer = app, before: str = "irg-rl") -> Iterator[tuple[str, Callable]]:
    """Yield (full name, function) of every command, such as ("irg-rl data build", data_build)."""
    for command in program.registered_commands:
        assert command.callback is not None
        yield f"{before} {command.name or command.callback.__name__.replace('_', '-')}", command.callback
    for group in program.registered_groups:
        assert group.typer_instance is not None
        yield from all_commands(group.typer_instance, f"{before} {group.name}")


def words_of(command: Callable) -> list[Word]:
    """Return the arguments and options of a command, in order."""
    return [Word.of(parameter) for parameter in inspect.signature(command).parameters.values()]


def commands_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for name, command in all_commands():
        words = words_of(command)
        options = ["[OPTIONS]"] if not all(word.is_argument for word in words) else []
        usage = [name, *options, *(word.written[0] for word in words if word.is_argument)]
        parts.append(f"## {name}\n\n```text\n{' '.join(usage)}\n```\n")
        parts += [f"{plain(part)}\n" for part in (inspect.getdoc(command) or "").split("\n\n")]
        if words:
            parts.append(table_row("argument or option", "values", "default", "meaning") + "\n|---|---|---|---|")
            parts.append("\n".join(word.row() for word in words) + "\n")
    return "\n".join(parts)

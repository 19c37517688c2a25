"""Read prompt files and result files of benchmarks. These files come from other programs. They may begin with a byte
order mark, have Windows line ends, or end in the middle because a program was interrupted."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from irg_rl import text_in
from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt

LONGEST_NAME = 240
"""Largest length of a file name in bytes, without its ending. File systems allow 255 bytes including the ending."""


@dataclass(frozen=True)
class Line:
    """One JSON object or CSV row of a prompts file. `where` is a text for error messages: the file, and the line or the
    entry."""

    where: str
    content: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return the string in field `name`. Raises InputError if the field is missing, is not a string, or is empty.
        The message names the file, the line and the existing fields."""
        value = self.content.get(name)
        if not isinstance(value, str) or not value.strip():
            there = ", ".join(map(str, self.content)) or "nothing"
            raise InputError(f"{self.where}: needs a non-empty string `{name}`; there: {there}")
        return value

    def whole_number(self, name: str) -> int:
        value = self.content.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self.where}: needs a whole number `{name}`, got {value!r}")
        return value

    def out_of_range(self, name: str, low: int, high: int) -> NoReturn:
        raise InputError(f"{self.where}: `{name}` is {self.content[name]!r}, it must lie in {low} to {high}")

    def listing(self, name: str) -> list[Any]:
        value = self.content.get(name)
        if not isinstance(value, list):
            raise InputError(f"{self.where}: needs a list `{name}`, got {value!r}")
        return value


def read_text(path: Path) -> str:
    """Read a text file. Windows line ends become plain line feeds. Raises InputError if the file is not text."""
    return text_in.read_text(path).replace("\r\n", "\n")


def json_lines(path: Path) -> list[Line]:
    """Read a JSON-lines file. Return its objects as a list of `Line`, each with a text for error messages that names
    the file and the line. Empty lines are skipped. Raises InputError if a line is not a JSON object, or if the file has
    no objects."""
    lines = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            where = f"{path}, line {number}"
            lines.append(Line(where, _object(_parsed(text, where), where)))
    return _some(lines, path)


def json_list(path: Path) -> list[Line]:
    """Read a JSON file that contains a list of objects, or a mapping from names to objects. Return the objects in their
    order. Raises InputError if an entry is not an object, or if there are no entries."""
    content = _parsed(read_text(path), str(path))
    if not isinstance(content, dict | list):
        raise InputError(f"{path}: a JSON list is needed, got {type(content).__name__}")
    entries = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    lines = [Line(f"{path}, entry {name}", _object(entry, f"{path}, entry {name}")) for name, entry in entries]
    return _some(lines, path)


def json_mapping(path: Path) -> dict[str, Line]:
    """Read a JSON file that maps names to objects. Return name -> object. Raises InputError if there are no entries, or
    if a name occurs twice. (A JSON reader would silently keep only the last object of such a name.)"""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"{path}: {sorted(twice)[0]!r} comes twice; ids must differ")
        return dict(pairs)

    content = _parsed(read_text(path), str(path), unique)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is needed, got {type(content).__name__}")
    lines = {name: Line(f"{path}, {name!r}", _object(entry, f"{path}, {name!r}")) for name, entry in content.items()}
    _some(list(lines.values()), path)
    return lines


def csv_rows(path: Path, columns: tuple[str, ...] = ()) -> list[Line]:
    """Read a CSV file with a header, and return its rows as a list of `Line`. Raises InputError if one of the columns
    named in `columns` is missing."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    there = reader.fieldnames or []
    if missing := [column for column in columns if column not in there]:
        raise InputError(f"{path}: column {missing[0]!r} is missing; there: {', '.join(there) or 'none'}")
    return [Line(f"{path}, line {reader.line_num}", row) for row in reader]


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Read the non-empty lines of a text file. Return pairs (line number, text). Raises InputError if all lines are
    empty."""
    lines = [(n, text) for n, text in enumerate(read_text(path).split("\n"), 1) if text.strip()]
    if not lines:
        raise InputError(f"{path} is empty: one prompt per line is needed")
    return lines


def _parsed(text: str, where: str, pairs: text_in.PairsHook | None = None, finite: bool = True) -> Any:
    return text_in.parse_json(text, where, finite, pairs)


def _object(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: a JSON object is needed, got {entry!r:.80}")
    return entry


def _some(lines: list[Line], path: Path) -> list[Line]:
    if not lines:
        raise InputError(f"{path} is empty: prompts are needed")
    return lines


def file_name(text: str, where: str) -> str:
    """Return `text` unchanged if it is a valid file name. Raises InputError if it is not. `where` says where the text
    was read; the message begins with it."""
    if not text.strip() or text in (".", "..") or any(c in text for c in "/\\\0\n\r"):
        raise InputError(f"{where}: {text!r} cannot be a file name (empty, or with a slash): rename it in the file")
    if len(text.encode()) > LONGEST_NAME:
        raise InputError(f"{where}: {text[:40]!r}... is longer than the {LONGEST_NAME} bytes of a file name")
    return text


def prompts_folder(path: Path, pattern: str) -> list[Path]:
    """Return the paths of the prompt files. If `path` is a file, the list has only this file. If `path` is a folder,
    the list has the files in it that match `pattern`, sorted. Raises InputError if there are no such files."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give the suite's prompts")
    files = [path] if path.is_file() else sorted(path.glob(pattern))
    if not files:
        raise InputError(f"{path} has no {pattern}")
    return files


def whole_lines(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield pairs (line number, object) from a JSON-lines *result* file. A line that is not a JSON object is skipped,
    for example the last line of a file that ends in the middle. For each skipped line, a message is added to
    `problems`."""
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            entry = _parsed(text, str(path), finite=False)
        except InputError:
            entry = None
        if isinstance(entry, dict):
            yield number, entry
        else:
            problems.append(f"{path}, line {number}: no JSON object (cut off?): {text[:60]!r}")


def whole_json(path: Path, problems: list[str]) -> Any:
    """Read a JSON *result* file and return its content. If it is not valid JSON, for example because it ends in the
    middle, return None and add a message to `problems`."""
    try:
        return _parsed(read_text(path), str(path), finite=False)
    except InputError as error:
        problems.append(f"{error} (cut off?)")
        return None


def number(value: Any) -> float | None:
    """Convert `value` to a finite number, and return it. Return None if this is not possible, for example for nan."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if result == result and abs(result) != float("inf") else None


def distinct(found: Iterable[tuple[Prompt, str]]) -> list[Prompt]:
    """Check that all prompts have different ids, and return the prompts in their given order. Each item of `found` is a
    pair: the prompt, and the place where it was read (for example file and line). Raises InputError if two prompts have
    the same id; the message names the two places."""
    prompts: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    for prompt, where in found:
        if prompt.id in prompts:
            raise InputError(f"{where}: the id {prompt.id!r} was used before ({places[prompt.id]}); ids must differ")
        prompts[prompt.id], places[prompt.id] = prompt, where
    return list(prompts.values())

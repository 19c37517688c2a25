"""Read prompt files and result files of benchmarks. These files come from other programs. They may begin with a byte
order mark, have Windows line ends, or end in the middle because a program was interrupted."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from irg_rl import text_in
from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt

LONGEST_NAME = 240
"""Largest length of a file name in bytes, without its ending. File systems allow 255 bytes including the ending."""
Json = TypeVar("Json", list[Any], dict[str, Any])
_FORMS = {list: "list", dict: "object"}


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
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
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
            lines.append(Line(where, _object(text_in.parse_json(text, where), where)))
    return _some(lines, path)


def json_list(path: Path) -> list[Line]:
    """Read a JSON file that contains a list of objects, or a mapping from names to objects. Return the objects in their
    order. Raises InputError if an entry is not an object, or if there are no entries."""
    content = text_in.read_json(path)
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

    content = text_in.parse_json(read_text(path), str(path), pairs=unique)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is needed, got {type(content).__name__}")
    lines = {name: Line(f"{path}, {name!r}", _object(entry, f"{path}, {name!r}")) for name, entry in content.items()}
    _some(list(lines.values()), path)
    return lines


def csv_rows(path: Path, columns: tuple[str, ...]) -> list[Line]:
    """Read a CSV file with a header, and return its rows as a list of `Line`. Raises InputError if one of the columns
    named in `columns` is missing, if a row has more or fewer cells than the header, or if the file ends within a
    quoted cell."""
    reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    lines = []
    try:
        there = reader.fieldnames or []
        if missing := [column for column in columns if column not in there]:
            raise InputError(f"{path}: column {missing[0]!r} is missing; there: {', '.join(there) or 'none'}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: the row has not the {len(there)} cells of the header (cut off?)")
            lines.append(Line(where, row))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error
    return lines


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Read the non-empty lines of a text file. Return pairs (line number, text). Raises InputError if all lines are
    empty."""
    lines = [(n, text) for n, text in enumerate(read_text(path).split("\n"), 1) if text.strip()]
    if not lines:
        raise InputError(f"{path} is empty: one prompt per line is needed")
    return lines


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


def result_lines(path: Path, problems: list[str], only_ended: bool = False) -> Iterator[tuple[int, str]]:
    """Yield pairs (line number, text) of the lines of a *result* file that are not blank. If `only_ended` is true, a
    last line without a line end is left out, because a line that was cut off may look like a whole one: 0.83 may become
    0.8. A line that is not UTF-8 text is left out, too, for example because the file was cut off inside a character.
    For each line that is left out, and for a file that cannot be read, a message is added to `problems`."""
    try:
        lines = text_in.text_bytes(path).split(b"\n")
    except InputError as error:
        problems.append(str(error))
        return
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError:
            problems.append(f"{path}, line {number}: not UTF-8 text (cut off?): {line[:60]!r}")
            continue
        if only_ended and number == len(lines) and text.strip():
            problems.append(f"{path}, line {number}: has no line end (cut off?): {text[:60]!r}")
        elif text.strip():
            yield number, text


def whole_rows(path: Path, problems: list[str]) -> Iterator[Line]:
    """Yield the rows of a CSV *result* file with a header. For what cannot be read, for example a last row that was cut
    off, a message is added to `problems`."""
    lines = dict(result_lines(path, problems, only_ended=True))
    texts = [lines.get(number, "") + "\n" for number in range(1, max(lines, default=0) + 1)]
    reader = csv.DictReader(texts, strict=True)
    try:
        for row in reader:
            yield Line(f"{path}, line {reader.line_num}", row)
    except csv.Error as error:
        problems.append(f"{path}, line {reader.reader.line_num}: not CSV ({error}; cut off?)")


def whole_lines(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield pairs (line number, object) from a JSON-lines *result* file. A line that is not a JSON object is skipped,
    for example the last line of a file that ends in the middle. For each skipped line, a message is added to
    `problems`."""
    for number, text in result_lines(path, problems):
        try:
            entry = text_in.parse_json(text, str(path), finite=False)
        except InputError:
            entry = None
        if isinstance(entry, dict):
            yield number, entry
        else:
            problems.append(f"{path}, line {number}: no JSON object (cut off?): {text[:60]!r}")


def whole_json(path: Path, problems: list[str], form: type[Json]) -> Json | None:
    """Read a JSON *result* file and return its content, which must be a `form`, a list or a dict. If it is not, or if
    the file is not valid JSON, for example because it ends in the middle, return None and add a message to
    `problems`."""
    try:
        content = text_in.parse_json(read_text(path), str(path), finite=False)
    except InputError as error:
        problems.append(f"{error} (cut off?)")
        return None
    if not isinstance(content, form):
        problems.append(f"{path}: a JSON {_FORMS[form]} is needed, got {content!r:.60}")
        return None
    return content


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

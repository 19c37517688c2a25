"""Reads text and JSON that come from outside the program: prompts, data rows, lists of files, answers of a judge.

Text must be UTF-8. A byte order mark and CRLF line ends are accepted. JSON has limits, because very deep nesting or
very long numbers could crash a parser. Every error is an InputError that names the file and, if possible, the line.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError

MOST_DEPTH = 100
"""Largest depth to which lists and objects in JSON may be nested."""
MOST_DIGITS = 300
"""Largest number of digits that a whole number in JSON may have. The largest double has 309 digits."""
MOST_BYTES = 2**30
"""Largest size of a text file in bytes."""
PairsHook = Callable[[list[tuple[str, Any]]], Any]
_HALF = re.compile("[\ud800-\udfff]")
_HALF_OR_CONTROL = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Pattern for lone surrogates (halves of a character) and most control characters. It does not match tabs or the
characters that end a line. The latter include U+0085, because some systems end lines with it."""


def read_text(path: Path | str, most_bytes: int = MOST_BYTES) -> str:
    """Read a file as text, without a byte order mark. Raises InputError if the file is missing, too large or not UTF-8.
    For a byte that is not UTF-8, the message names the line."""
    data = text_bytes(path, most_bytes)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = f"byte {data[error.start]:#04x}"
        raise InputError(f"{path}, line {line}: {byte} is not UTF-8 text: save it as UTF-8") from error


def text_bytes(path: Path | str, most_bytes: int = MOST_BYTES) -> bytes:
    """Read the bytes of a text file, without a byte order mark. Raises InputError if the file is missing, cannot be
    read, is too large or is UTF-16 text. The bytes may still be no UTF-8 text, for example if the file was cut off
    inside a character."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise InputError(f"{path} has {size} bytes, at most {most_bytes} are read")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16 text: save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line of a file that is not blank. The place is the text "FILE, line N", for error
    messages. Only a line feed ends a line. The other line separators U+2028 and U+0085 do not end a line, because they
    may be part of JSON strings."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def parse_json(text: str | bytes, where: str, finite: bool = True, pairs: PairsHook | None = None) -> Any:
    """Parse a JSON text, and return its value. `where` says where the text comes from; error messages begin with it. If
    `finite` is true, NaN and infinity are errors. If `pairs` is None, a JSON object becomes a dict. Otherwise, `pairs`
    is a function. It gets the (name, value) pairs of a JSON object as a list, and returns the value for this object.

    Raises InputError in three cases: the text is not JSON, its nesting is deeper than MOST_DEPTH, or a whole number has
    more than MOST_DIGITS digits. If the text is not JSON and has several lines, the message names the line.
    """
    try:
        value = json.loads(text, parse_int=_whole_number, object_pairs_hook=pairs)
    except InputError:
        raise  # `pairs` has raised it
    except RecursionError as error:
        raise InputError(f"{where}: the JSON is nested deeper than {MOST_DEPTH} levels") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        raise InputError(f"{where}: not JSON ({error.msg} at {line}character {error.colno})") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    _require_plain(value, where, finite)
    return value


def read_json(path: Path | str) -> Any:
    """Read a JSON file, and return its value. The limits and errors are the same as in `parse_json`."""
    return parse_json(read_text(path), str(path))


def require_text(text: str, where: str, control: bool = True) -> str:
    """Return the text unchanged if it is valid. Raises InputError if the text has lone surrogates (halves of a
    character), because tokenizers and files cannot handle them. `control` says whether control characters are allowed.
    If it is False, they raise InputError, too. `where` says where the text comes from; the message begins with it."""
    found = (_HALF if control else _HALF_OR_CONTROL).search(text)
    if found is None:
        return text
    code = f"U+{ord(found[0]):04X}"
    what = f"half a character (lone surrogate {code})" if _HALF.match(found[0]) else f"control character {code}"
    raise InputError(f"{where}: {what} at character {found.start() + 1}: remove it")


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits.lstrip('-'))} digits, at most {MOST_DIGITS} are read")
    return int(digits)


def _require_plain(value: Any, where: str, finite: bool) -> None:
    """Check that the parsed JSON `value` is not nested too deeply and, if `finite` is true, that all numbers are
    finite. Raises InputError if one of these conditions fails. The check uses a loop, because a recursive function
    could itself overflow the stack."""
    level, depth = [value], 0
    while level:
        if finite and any(isinstance(one, float) and not math.isfinite(one) for one in level):
            raise InputError(f"{where}: NaN or an infinite number")
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        depth += 1
        if depth > MOST_DEPTH:
            raise InputError(f"{where}: the JSON is nested deeper than {MOST_DEPTH} levels")


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value

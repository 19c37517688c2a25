"""The way in for text and JSON that the program did not write: prompts, rows, manifests, answers of a judge.

Text is UTF-8; a byte order mark and line ends of other systems (CRLF) are read over. JSON has limits: what is nested or
long enough to crash a parser is refused in words. Every refusal is an InputError that names the file, and the line
where there is one.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError

MOST_DEPTH = 100
"""Of JSON: lists and objects inside each other."""
MOST_DIGITS = 300
"""Of a whole number in JSON; a double has at most 309."""
MOST_BYTES = 2**30
"""Of a text file."""
PairsHook = Callable[[list[tuple[str, Any]]], Any]
_HALF = re.compile("[\ud800-\udfff]")
_HALF_OR_CONTROL = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Tabulator and line ends are no control characters here; U+0085 is a line end on some systems."""


def read_text(path: Path | str, most_bytes: int = MOST_BYTES) -> str:
    """A file as text, without its byte order mark. InputError names the line of the first byte that is not UTF-8."""
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
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = f"byte {data[error.start]:#04x}"
        raise InputError(f"{path}, line {line}: {byte} is not UTF-8 text: save it as UTF-8") from error


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """(place, line) of every line that is not blank; the place is "FILE, line N". Only a line feed ends a line: U+2028
    and U+0085 may stand inside JSON strings."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def parse_json(text: str | bytes, where: str, finite: bool = True, pairs: PairsHook | None = None) -> Any:
    """The value of a JSON text. `finite`: NaN and infinity are refused. `pairs` makes an object of names and values.

    Raises InputError, which begins with `where`, for text that is no JSON, for nesting deeper than MOST_DEPTH and for
    whole numbers of more than MOST_DIGITS digits.
    """
    try:
        value = json.loads(text, parse_int=_whole_number, object_pairs_hook=pairs)
    except InputError:
        raise  # of `pairs`
    except RecursionError as error:
        raise InputError(f"{where}: the JSON is nested deeper than {MOST_DEPTH} levels") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos + 1})") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    _require_plain(value, where, finite)
    return value


def read_json(path: Path | str) -> Any:
    """The value of a JSON file; see `parse_json`."""
    return parse_json(read_text(path), str(path))


def require_text(text: str, where: str, control: bool = True) -> str:
    """The text, if a tokenizer can take it and a file can hold it: no lone surrogates, and no control characters where
    `control` is false. InputError begins with `where`."""
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
    """Depth and finite numbers, looked at level by level: a recursion could itself go too deep."""
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

"""Removes secrets and paths of this machine from everything that the page and the JSON file of `irg-rl verify` show."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irg_rl.redact import redact

HIDDEN = "<path>"
_ABSOLUTE = re.compile(r"(?<![\w:/.<>])(?:~(?:/[\w.@+~=-]+)+|/[\w.@+~=-]{2,}(?:/[\w.@+~=-]+)*)/?")
"""Pattern for an absolute path. An address such as http://host/v1, a fraction and `</think>` do not match."""


def clean(value: Any, places: Mapping[str, Path]) -> Any:
    """Return nested values in which all texts are free of secrets and of paths. `places` maps names to folders: such a
    folder is replaced by its name, so that a message still says which file it is about. All other absolute paths are
    replaced by `<path>`."""
    spellings = [(name, (path, path.absolute(), path.resolve())) for name, path in places.items()]
    found = {str(path): f"<{name}>" for name, paths in spellings for path in paths}
    longest_first = sorted((text for text in found if len(text) > 1), key=len, reverse=True)

    def without_paths(text: str) -> str:
        for path in longest_first:
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w.-])", found[path], text)
        return _ABSOLUTE.sub(HIDDEN, text)

    def walk(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {walk(key): walk(one) for key, one in inner.items()}
        if isinstance(inner, list | tuple):
            return [walk(one) for one in inner]
        return without_paths(inner) if isinstance(inner, str) else inner

    return walk(redact(value))

"""Things that a recipe names: one that comes with the program by its short name, one's own as `package.module:Name`."""

import difflib
from collections.abc import Mapping
from typing import Any

from irg_rl.errors import InputError
from irg_rl.imports import imported


def import_named(word: str, known: Mapping[str, str], what: str) -> Any:
    """The object that `word` names: a key of `known`, whose values are import paths, or an import path itself.

    Raises InputError for a word that is neither, naming the nearest known one, and for what cannot be imported.
    """
    path = known.get(word, word)
    module, colon, attribute = path.partition(":")
    if not colon or not module or not attribute.isidentifier():
        near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)};"
        raise InputError(f"unknown {what} {word!r}; {guess} one's own is named as package.module:Name")
    try:
        return imported(path)
    except InputError as error:
        raise InputError(f"{what} {error}") from error

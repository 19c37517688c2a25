"""Things that a recipe names: one that comes with the program by its short name, one's own as `package.module:Name`."""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from irg_rl.errors import InputError


def import_named(word: str, known: Mapping[str, str], what: str) -> Any:
    """The object that `word` names: a key of `known`, whose values are import paths, or an import path itself.

    The working folder is searched after all that is installed: a file there cannot take the place of a package. Raises
    InputError for a word that is neither, naming the nearest known one, and for a module or a name in it that is not
    there.
    """
    module, colon, attribute = known.get(word, word).partition(":")
    if not colon or not module or not attribute.isidentifier():
        near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)};"
        raise InputError(f"unknown {what} {word!r}; {guess} one's own is named as package.module:Name")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = vars(importlib.import_module(module))
    except (ImportError, SyntaxError) as error:
        raise InputError(
            f"{what} {word!r}: the module {module} cannot be imported ({error}); modules are looked for among what is "
            f"installed, then in {folder}"
        ) from error
    if attribute not in found:
        near = difflib.get_close_matches(attribute, [key for key in found if not key.startswith("_")], n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{what} {word!r}: the module {module} has no {attribute}{guess}")
    return found[attribute]

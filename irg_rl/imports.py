"""Imports of names in recipes. The program's own packages come first, modules of the user last.

The user's folder may contain its own `rewards.py` or `sft/`. So child processes (Ray's workers, the embedded judge)
start with the folder of the program's packages first in the path, and without the working folder. A name in a recipe
such as `my_scorers:Class` is searched in all other places first, then in the recipe's folder, then in the working
folder. Every process does this when it imports the name.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError

FOLDERS = "IRG_RL_IMPORTS"
"""Environment variable with the folders of the user's modules. Child processes inherit it."""
PACKAGES = Path(__file__).resolve().parents[1]
"""The folder that holds irg_rl, sft, rewards and rollouts."""


def remember_folders(*folders: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Search modules of the user in these folders too, in this order, after the folders that are already known."""
    known = user_folders(environ)
    new = [str(folder.absolute()) for folder in folders]
    environ[FOLDERS] = os.pathsep.join(dict.fromkeys([*known, *(path for path in new if os.pathsep not in path)]))


def user_folders(environ: Mapping[str, str] = os.environ) -> list[str]:
    return [folder for folder in environ.get(FOLDERS, "").split(os.pathsep) if folder]


def imported(name: str) -> Any:
    """The object that "package.module:Name" names. InputError if there is no such module or name."""
    module, _, attribute = name.partition(":")
    folders = [*user_folders(), os.getcwd()]
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        found = vars(importlib.import_module(module))
    except (ImportError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(
            f"{name!r} cannot be imported: the module {module} ({error}); it is looked for among what is installed, "
            f"then in {', then in '.join(folders)}"
        ) from error
    if attribute not in found:
        near = difflib.get_close_matches(attribute, [key for key in found if not key.startswith("_")], n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{name!r} cannot be imported: the module {module} has no {attribute!r}{guess}")
    return found[attribute]


def import_named(word: str, known: Mapping[str, str], what: str) -> Any:
    """The object that `word` names. `word` is a key of `known`, whose values are import paths, or an import path
    itself.

    InputError if it is neither (the message names the nearest key), or if it cannot be imported.
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


def child_path(environ: Mapping[str, str] = os.environ) -> str:
    """PYTHONPATH for a child process: the folder of the program's packages, then the PYTHONPATH of this process."""
    given = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys([str(PACKAGES), *given]))

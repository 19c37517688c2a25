"""Imports classes and functions that recipes name, such as `my_scorers:Class`.

A module is searched in this order: in the program's own packages, in all other installed packages, in the folder of the
recipe, and in the working folder. Every process searches in this order when it imports an object that a recipe names.

The program's packages come first, because the user's folder may contain a `rewards.py` or `sft/` of its own. Such files
must not replace the program's packages. For the same reason, child processes (Ray's workers, the embedded judge) start
with a changed import path. It begins with the folder of the program's packages, and it does not contain the working
folder.
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
"""Name of the environment variable that lists the folders of the user's modules. Child processes inherit it."""
PACKAGES = Path(__file__).resolve().parents[1]
"""The folder that contains the packages irg_rl, sft, rewards and rollouts."""


def remember_folders(*folders: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Add these folders to the folders in which the user's modules are searched. The new folders are searched after the
    folders that were added before. The list is stored in an environment variable, so child processes use it, too."""
    known = user_folders(environ)
    new = [str(folder.absolute()) for folder in folders]
    environ[FOLDERS] = os.pathsep.join(dict.fromkeys([*known, *(path for path in new if os.pathsep not in path)]))


def user_folders(environ: Mapping[str, str] = os.environ) -> list[str]:
    return [folder for folder in environ.get(FOLDERS, "").split(os.pathsep) if folder]


def imported(name: str) -> Any:
    """Import and return the object that `name`, such as "package.module:Name", stands for. Raises InputError if there
    is no such module, or no such object in it."""
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
    """Import and return the object that `word` names. `word` is an import path such as "package.module:Name", or a
    short name, which is a key of `known`. The values of `known` are import paths. `what` says in error messages what
    kind of object it is.

    Raises InputError if `word` is neither an import path nor a key of `known`, or if the import fails. In the first
    case, the message names the most similar key.
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
    """Return the value that the environment variable PYTHONPATH gets in a child process. It begins with the folder of
    the program's packages. The PYTHONPATH of this process comes after it."""
    given = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys([str(PACKAGES), *given]))

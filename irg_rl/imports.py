"""Whose modules are imported: the program's own packages first, a user's last.

A folder in which somebody works may hold a `rewards.py` or an `sft/` of its own. Children (Ray's workers, the embedded
judge) are therefore started with the folder of the program's packages in front and without the working folder. What a
recipe names as `my_scorers:Class` is looked for everywhere else first, then in the recipe's folder, then in the working
folder; every process does this where it imports the name.
"""

import importlib
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError

FOLDERS = "IRG_RL_IMPORTS"
"""Environment variable with the folders of a user's modules, which child processes inherit."""
PACKAGES = Path(__file__).resolve().parents[1]
"""The folder that holds irg_rl, sft, rewards and rollouts."""


def remember_folders(*folders: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """A user's modules are looked for in these folders too, in this order, after those that are known already."""
    known = user_folders(environ)
    new = [str(folder.absolute()) for folder in folders]
    environ[FOLDERS] = os.pathsep.join(dict.fromkeys([*known, *(path for path in new if os.pathsep not in path)]))


def user_folders(environ: Mapping[str, str] = os.environ) -> list[str]:
    return [folder for folder in environ.get(FOLDERS, "").split(os.pathsep) if folder]


def imported(name: str) -> Any:
    """What "package.module:Name" names. InputError when there is no such module or no such name in it."""
    module, _, attribute = name.partition(":")
    for folder in [*user_folders(), os.getcwd()]:
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        return vars(importlib.import_module(module))[attribute]
    except (ImportError, KeyError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"{name!r} cannot be imported: {error!r}") from error


def child_path(environ: Mapping[str, str] = os.environ) -> str:
    """PYTHONPATH of a child process: the program's packages, then what this process was given."""
    given = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys([str(PACKAGES), *given]))

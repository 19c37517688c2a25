"""Finds what the page can show: run folders and folders of groups, in the folders that the user gave.

Only files inside the given folders are read. Links and `..` are resolved first, so a link in a run folder cannot lead
the page to another file of the machine.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from irg_rl.errors import InputError
from irg_rl.report.metrics_log import METRICS

RECIPE, GROUPS, ROLLOUTS = "recipe.yaml", "groups.json", "rollouts.json"
"""Files by which a folder is recognised. A run has a recipe, or at least metrics. A folder of groups has `groups.json`
itself or in its subfolders. `irg-rl rollout` also writes `rollouts.json`."""
DEPTH = 4
"""Runs are searched in a given folder and this many levels below it."""
MOST_FOLDERS = 20_000
"""Largest number of folders that one search looks into. Without it, a search from `/` would never end."""


@dataclass(frozen=True)
class RunSource:
    """A run folder or a folder of groups. `name` identifies it in addresses of the page. `folder` is its resolved path.
    `roots` are the resolved folders that the user gave; only files inside them are read."""

    name: str
    folder: Path
    roots: tuple[Path, ...]
    is_run: bool

    def path(self, *parts: str) -> Path:
        """Return the resolved path of a file of this source. The file need not exist. Raises InputError if the path
        leads outside the given folders."""
        return inside(self.folder.joinpath(*parts), self.roots)

    def found(self, pattern: str) -> list[Path]:
        """Return the paths that match a pattern, such as `evaluation/*.json`. They are sorted by name. Paths that lead
        outside the given folders are left out."""
        return sorted(path for path in self.folder.glob(pattern) if _is_inside(path.resolve(), self.roots))


def inside(path: Path, roots: Sequence[Path]) -> Path:
    """Resolve all links and `..` of a path, and return the result. Raises InputError if the result is not in one of the
    folders `roots`."""
    found = path.resolve()
    if not _is_inside(found, roots):
        raise InputError(f"{path} leads outside the given folders: give its own folder to `irg-rl view`, too")
    return found


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


class Library:
    """All runs and folders of groups in the folders that the user gave. Each call of `sources` searches again, so a new
    run appears on the page by itself."""

    def __init__(self, given: Sequence[Path]) -> None:
        """Raises InputError if one of the folders does not exist."""
        for path in given:
            if not path.is_dir():
                raise InputError(f"{path}: no such folder; give a run, a folder of runs, or a folder of groups")
        self.roots = tuple(dict.fromkeys(path.resolve() for path in given))

    def sources(self) -> dict[str, RunSource]:
        """Return name -> source, sorted by name.

        The name of a given folder is its last part. The name of a folder inside a given folder is the path from there,
        with `~` in place of `/`. If two folders would have the same name, the names of their parents are put before it.
        """
        found: dict[Path, tuple[str, bool]] = {}
        for root in self.roots:
            for folder, is_run in _search(root):
                name = root.name if folder == root else "~".join(folder.relative_to(root).parts)
                found.setdefault(folder, (name or "root", is_run))
        often = Counter(name for name, _ in found.values())
        sources = {}
        for folder, (short, is_run) in found.items():
            name = short if often[short] == 1 else "~".join(folder.parts[-2 - short.count("~") :]).strip("/")
            while name in sources:
                name += "+"
            sources[name] = RunSource(name, folder, self.roots, is_run)
        return dict(sorted(sources.items()))


def _search(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield (folder, whether it is a run) for every run and every folder of groups at most DEPTH levels below `root`.
    Folders inside a run, hidden folders, and links to folders are left out."""
    waiting, seen = [(root, 0)], 0
    while waiting and seen < MOST_FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue  # a folder that the user may not read, or that has just been deleted
        files = {entry.name for entry in entries if entry.is_file()}
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        if {RECIPE, METRICS} & files:
            yield folder, True
        elif {GROUPS, ROLLOUTS} & files or any((inner / GROUPS).is_file() for inner in folders):
            yield folder, False
        elif depth < DEPTH:
            waiting += [(inner, depth + 1) for inner in folders if not inner.name.startswith(".")]

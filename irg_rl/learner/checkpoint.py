"""Write and read checkpoints. The code that reads checkpoints finds only complete ones (invariant 6 of
docs/architecture.md).

    <run>/checkpoints/step_000010/
        manifest.json      sha256 and size of every file, and everything that is not a tensor
        *.safetensors      named groups of tensors: model, exp_avg, exp_avg_sq, ema, rng

A checkpoint is first written into a hidden folder. Every file and every folder is synced to the disk; the manifest is
the last file. Then the hidden folder is renamed. Older checkpoints are removed only after that. Nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from irg_rl.errors import InputError, UserError
from irg_rl.text_in import parse_json, read_text

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 1


class _FileEntry(BaseModel):
    sha256: str
    bytes: int


class _Manifest(BaseModel):
    """The entries that the file `manifest.json` of a checkpoint must have, with their types."""

    model_config = ConfigDict(strict=True)
    format: int
    step: Annotated[int, Field(ge=0)]
    files: dict[Annotated[str, Field(pattern=r"^[\w.-]+\.safetensors$")], _FileEntry]
    cursors: dict[str, Any]
    recipe: dict[str, Any]
    recipe_digest: str
    fingerprint: str
    extra: dict[str, Any]


class CheckpointError(UserError, ValueError):
    """Raised if a checkpoint cannot be written or read, or if the run cannot continue from it. The message says what to
    do."""


@dataclass
class Snapshot:
    """The content of one checkpoint: everything that a run needs to continue. It has the number of the training step,
    the tensors in named groups, and the state of the data streams (`cursors`). It also has the recipe, a hash of the
    recipe (`recipe_digest`), and a hash of the training data (`fingerprint`)."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # group -> name -> tensor; one file per group
    cursors: dict = field(default_factory=dict)  # JSON: places in streams, slot buffer, reward normalisers, counters
    recipe: dict = field(default_factory=dict)  # settings that change the result
    recipe_digest: str = ""
    fingerprint: str = ""  # fingerprint of the data
    extra: dict = field(default_factory=dict)  # JSON: anything else that the run stores


def save(run: Path, snapshot: Snapshot, keep_last: int) -> Path:
    """Write a checkpoint and return its folder. Then remove all checkpoints except the newest `keep_last` ones.

    Raises CheckpointError if the checkpoint cannot be written (disk full, no permission). In this case no part of it
    remains on the disk, and the older checkpoints do not change.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}; at least the newest checkpoint is kept")
    folder = run / FOLDER
    final = folder / f"step_{snapshot.step:06d}"
    aside = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, snapshot)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _write(aside, snapshot)
        _replace(aside, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"cannot write the checkpoint {final}: {error}; free some space and resume") from error
    _prune(folder, keep_last)
    return final


def load(path: Path) -> Snapshot:
    """Read a checkpoint and return its content. Before that, check every file of the checkpoint against its manifest.

    Raises CheckpointError if a file is missing or damaged, or if the manifest is not valid. The message says what is
    wrong.
    """
    snapshot, files = _checked(path)
    snapshot.tensors = {name.removesuffix(".safetensors"): load_file(path / name) for name in files}
    return snapshot


def describe(path: Path) -> Snapshot:
    """Return the content of a checkpoint without its tensors. Before that, check every file of the checkpoint against
    its manifest. The main process (driver) of a run uses this. Raises the same errors as `load`."""
    return _checked(path)[0]


def latest(run: Path) -> tuple[Path | None, list[str]]:
    """Find the newest complete checkpoint of a run.

    Returns (path, problems). If the run has no complete checkpoint, the path is None. `problems` has one line for each
    incomplete checkpoint that is newer than the returned one.
    """
    problems = []
    for path in reversed(_finished(run / FOLDER)):
        try:
            _verified(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems


def before(run: Path, step: int) -> Path | None:
    """Return the folder of a run's newest complete checkpoint from before step `step`. Return None if there is no such
    checkpoint."""
    for path in reversed(_finished(run / FOLDER)):
        with suppress(CheckpointError):
            if describe(path).step < step:
                return path
    return None


def require_same_recipe(snapshot: Snapshot, recipe: Mapping, digest: str, fingerprint: str) -> None:
    """Raise CheckpointError if the settings or the data of this run are not the same as in the checkpoint. `recipe` has
    the settings of this run. `digest` is a hash of these settings, and `fingerprint` is a hash of the data of this run.
    If settings differ, the message names them."""
    if digest != snapshot.recipe_digest:
        changes = differing(snapshot.recipe, recipe)
        lines = [f"{key}: {old!r} in the checkpoint, {new!r} now" for key, old, new in changes]
        raise CheckpointError(
            f"the recipe (digest {digest}) is not the one of the checkpoint ({snapshot.recipe_digest}):\n  "
            + "\n  ".join(lines or ["no setting differs by name; the recipe's schema does"])
        )
    if fingerprint != snapshot.fingerprint:
        raise CheckpointError(
            f"the data changed since the checkpoint (fingerprint {fingerprint}, was {snapshot.fingerprint}): the "
            "stream cannot be continued where it stopped; restore the data or start a new run"
        )


def differing(old: Mapping, new: Mapping, prefix: str = "") -> list[tuple[str, object, object]]:
    """Compare two nested dicts of settings. Return a list with (dotted name, old value, new value) for every setting
    that differs. `prefix` is put before each name."""
    found = []
    for key in sorted(set(old) | set(new)):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differing(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append((prefix + key, before, now))
    return found


def _write(folder: Path, snapshot: Snapshot) -> None:
    files = {}
    for group, tensors in snapshot.tensors.items():
        path = folder / f"{group}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        _sync(path)
        files[path.name] = {"sha256": _digest(path), "bytes": path.stat().st_size}
    manifest = {
        "format": FORMAT,
        "step": snapshot.step,
        "files": files,
        "cursors": snapshot.cursors,
        "recipe": snapshot.recipe,
        "recipe_digest": snapshot.recipe_digest,
        "fingerprint": snapshot.fingerprint,
        "extra": snapshot.extra,
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(path)
    _sync(folder)


def _replace(aside: Path, final: Path) -> None:
    """Rename the new checkpoint folder `aside` to its final name. If an older checkpoint of the same step exists
    (because the run was resumed from an earlier step), this older one is removed only after the renaming.
    """
    if final.exists():
        old = aside.with_suffix(".old")
        os.rename(final, old)
        os.rename(aside, final)
        shutil.rmtree(old)
    else:
        os.rename(aside, final)


def _prune(folder: Path, keep_last: int) -> None:
    complete = _finished(folder)
    for path in complete[:-keep_last]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step_*"):  # unfinished folder of a process that was killed while it wrote
        shutil.rmtree(path, ignore_errors=True)


def _finished(folder: Path) -> list[Path]:
    """Return the finished checkpoint folders, oldest first. Unfinished folders are hidden, so they are not included."""
    numbered = [(int(path.name.removeprefix("step_")), path) for path in folder.glob("step_*[0-9]")
                if path.name.removeprefix("step_").isdecimal() and path.is_dir()]  # fmt: skip
    return [path for _, path in sorted(numbered)]  # sorted as numbers: step_1000000 comes after step_999999


def _checked(path: Path) -> tuple[Snapshot, list[str]]:
    found = _verified(path)
    snapshot = Snapshot(
        found.step, {}, found.cursors, found.recipe, found.recipe_digest, found.fingerprint, found.extra
    )
    return snapshot, list(found.files)


def _verified(path: Path) -> _Manifest:
    """Check that all files of a checkpoint exist and have not changed since they were written. Return the manifest.
    Raises CheckpointError that names the first problem."""
    try:
        manifest = _Manifest.model_validate(parse_json(read_text(path / MANIFEST), MANIFEST, finite=False))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or MANIFEST
        raise CheckpointError(f"{path} is no complete checkpoint: {where} of its {MANIFEST}: {first['msg']}") from error
    except InputError as error:
        raise CheckpointError(f"{path} is no complete checkpoint: its {MANIFEST} cannot be read ({error})") from error
    if manifest.format != FORMAT:
        raise CheckpointError(f"{path} has format {manifest.format!r}; this version reads format {FORMAT}")
    for name, expected in manifest.files.items():
        file = path / name
        if file.parent != path or not file.is_file():
            raise CheckpointError(f"{path} is no complete checkpoint: {name} is missing")
        size = file.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{file} has {size} bytes instead of {expected.bytes}: it is cut off")
        if _digest(file) != expected.sha256:
            raise CheckpointError(f"{file} does not match its sha256 in {MANIFEST}: it is damaged")
    return manifest


def _require_space(folder: Path, snapshot: Snapshot) -> None:
    need = sum(t.numel() * t.element_size() for group in snapshot.tensors.values() for t in group.values())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"it needs {need / 2**20:.0f} MiB and {folder} has {free / 2**20:.0f} MiB free")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Write and read checkpoints. The code that reads checkpoints finds only complete ones (invariant 6 of
docs/architecture.md).

    <run>/checkpoints/step_000010/
        manifest.json      sha256 and size of every file, everything that is not a tensor, and its own sha256
        *.safetensors      named groups of tensors: model, exp_avg, exp_avg_sq, ema, rng

A checkpoint is first written into a hidden folder. Every file and every folder is synced to the disk; the manifest is
the last file. Then the hidden folder is renamed. Older checkpoints are removed only after that. Nothing is pickled.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from irg_rl import faults
from irg_rl.errors import InputError, UserError
from irg_rl.text_in import parse_json, read_text

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 2
OLD_FORMAT = 1
"""The format of checkpoints whose manifest has no sha256 of itself. They are still read."""
DAMAGED = "damaged_"
"""A damaged checkpoint gets this before its name. So it is kept, but it is no longer counted as a checkpoint."""
READERS = 4
"""Number of files of a checkpoint that are read at the same time when their digests are compared."""


class _FileEntry(BaseModel):
    sha256: str
    bytes: int


class _Manifest(BaseModel):
    """The entries that the file `manifest.json` of a checkpoint must have, with their types."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: int
    step: Annotated[int, Field(ge=0)]
    files: dict[Annotated[str, Field(pattern=r"^[\w.-]+\.safetensors$")], _FileEntry]
    cursors: dict[str, Any]
    recipe: dict[str, Any]
    recipe_digest: str
    fingerprint: str
    extra: dict[str, Any]
    sha256: str = ""
    """Hash of all other entries. Only the old format has none."""


class CheckpointError(UserError, ValueError):
    """Raised if a checkpoint cannot be written or read, or if the run cannot continue from it. The message says what to
    do."""


class DamagedError(CheckpointError):
    """Raised if a checkpoint is incomplete, or if its files are not what its manifest says."""


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
        _write(aside, snapshot, run.name)
        _replace(aside, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"cannot write the checkpoint {final}: {error}; {remedy(error)} and resume") from error
    _prune(folder, keep_last)
    faults.at("checkpoint_written", snapshot.step, run.name, final)
    return final


def load(path: Path, checked: bool = False) -> Snapshot:
    """Check every file of a checkpoint against its manifest, then read the checkpoint. With `checked`, only the sizes
    of the files are compared, because `latest` has just compared their digests: to read 200 GB again on every rank
    takes many minutes.

    Raises CheckpointError if a file is missing or damaged, or if the manifest is not valid. The message says what is
    wrong.
    """
    snapshot, files = _checked(path, checked)
    snapshot.tensors = {name.removesuffix(".safetensors"): load_file(path / name) for name in files}
    return snapshot


def describe(path: Path, checked: bool = False) -> Snapshot:
    """Check a checkpoint as `load` does, and read it without its tensors. The main process (driver) of a run uses
    this."""
    return _checked(path, checked)[0]


def latest(run: Path) -> tuple[Path | None, list[str]]:
    """Find the newest complete checkpoint of a run.

    Returns (path, problems). If the run has no complete checkpoint, the path is None. `problems` has one line for each
    incomplete checkpoint that is newer than the returned one.
    """
    problems = []
    for path in reversed(_finished(run / FOLDER)):
        try:
            _verified(path)
        except DamagedError as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems


def newest(run: Path, tell: Callable[[str], None], restart: bool = False) -> Path | None:
    """Return the checkpoint from which training goes on: the newest complete one. Return None if training begins anew,
    because there is no checkpoint.

    `tell` is called with one line for each damaged checkpoint that is newer. These checkpoints are renamed, so that
    they never count as the newest ones when old checkpoints are removed. If all checkpoints are damaged,
    CheckpointError is raised and nothing is renamed. With `restart`, training begins anew instead.
    """
    finished = _finished(run / FOLDER)
    path, problems = latest(run)
    if path is None and problems and not restart:
        raise CheckpointError(
            f"{run / FOLDER}: all {len(problems)} checkpoints are damaged ({'; '.join(problems)}). Put back a copy of "
            "one of them, or train this stage again from its beginning: `irg-rl resume RUN --restart-stage`"
        )
    for problem in problems:
        tell(f"damaged checkpoint: {problem}")
    for damaged in finished[0 if path is None else finished.index(path) + 1 :]:
        aside = damaged.with_name(DAMAGED + damaged.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(damaged, aside)
    if problems:
        tell(f"kept as {DAMAGED}step_*; training goes on from {'its beginning' if path is None else path.name}")
    return path


def before(run: Path, step: int, tell: Callable[[str], None]) -> Path | None:
    """Return the folder of a run's newest complete checkpoint from before step `step`. Return None if there is no such
    checkpoint. `tell` is called with one line for each damaged checkpoint on the way."""
    for path in reversed(_finished(run / FOLDER)):
        if _number(path) < step:
            try:
                _verified(path)
            except DamagedError as error:
                tell(f"damaged checkpoint: {error}")
            else:
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


def _write(folder: Path, snapshot: Snapshot, stage: str) -> None:
    files = {}
    for group, tensors in snapshot.tensors.items():
        path = folder / f"{group}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        _sync(path)
        files[path.name] = {"sha256": _digest(path), "bytes": path.stat().st_size}
    faults.at("checkpoint", snapshot.step, stage, folder)
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
    manifest = json.loads(json.dumps(manifest))  # as it will be read again, so that its hash is the same
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest | {"sha256": _digest_of(manifest)}, indent=1), encoding="utf-8")
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
    found = [path for path in folder.glob("step_*[0-9]") if path.name.removeprefix("step_").isdecimal()]
    return sorted(filter(Path.is_dir, found), key=_number)  # as numbers: step_1000000 comes after step_999999


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _checked(path: Path, checked: bool) -> tuple[Snapshot, list[str]]:
    found = _verified(path, checked)
    snapshot = Snapshot(
        found.step, {}, found.cursors, found.recipe, found.recipe_digest, found.fingerprint, found.extra
    )
    return snapshot, list(found.files)


def _verified(path: Path, checked: bool = False) -> _Manifest:
    """Check that all files of a checkpoint exist and have not changed since they were written. Return the manifest.
    With `checked`, the digests of the files are not compared. Raises DamagedError that
    names the first problem, or CheckpointError if the checkpoint has a format of another version or cannot be read."""
    try:
        words = parse_json(read_text(path / MANIFEST), MANIFEST, finite=False)
        _require_known_format(words, path)
        manifest = _Manifest.model_validate(words)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or MANIFEST
        raise DamagedError(f"{path} is no complete checkpoint: {where} of its {MANIFEST}: {first['msg']}") from error
    except InputError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        if isinstance(error.__cause__, OSError) and not missing:  # a disk or a network that fails for a moment
            raise CheckpointError(f"{path}: its {MANIFEST} cannot be read ({error})") from error
        raise DamagedError(f"{path} is no complete checkpoint: its {MANIFEST} cannot be read ({error})") from error
    told = words.pop("sha256", None)
    if (manifest.format == FORMAT or told is not None) and told != _digest_of(words):
        raise DamagedError(f"{path / MANIFEST} does not match its own sha256: it is damaged")
    for name, expected in manifest.files.items():
        file = path / name
        if file.parent != path or not file.is_file():
            raise DamagedError(f"{path} is no complete checkpoint: {name} is missing")
        size = file.stat().st_size
        if size != expected.bytes:
            raise DamagedError(f"{file} has {size} bytes instead of {expected.bytes}: it is cut off")
    if not checked:
        _compare_digests(path, manifest)
    return manifest


def _require_known_format(words: Any, path: Path) -> None:
    """Raise CheckpointError if a sound manifest has a format that this version does not read, and DamagedError if the
    number of the format was changed."""
    found = words.get("format") if isinstance(words, dict) else None
    if not isinstance(found, int) or found in (OLD_FORMAT, FORMAT):
        return
    if words.get("sha256") != _digest_of({key: value for key, value in words.items() if key != "sha256"}):
        raise DamagedError(f"{path / MANIFEST} does not match its own sha256: it is damaged")
    raise CheckpointError(
        f"{path} has format {found}; this version of irg-rl reads format {FORMAT}: use the version that wrote it"
    )


def _compare_digests(path: Path, manifest: _Manifest) -> None:
    """Raise DamagedError if a file has another sha256 than the manifest says. Several files are read at a time,
    because one thread hashes slower than a disk reads."""
    with ThreadPoolExecutor(READERS) as readers:
        digests = list(readers.map(lambda name: _digest(path / name), manifest.files))
    for digest, (name, expected) in zip(digests, manifest.files.items()):
        if digest != expected.sha256:
            raise DamagedError(f"{path / name} does not match its sha256 in {MANIFEST}: it is damaged")


def _require_space(folder: Path, snapshot: Snapshot) -> None:
    need = sum(t.numel() * t.element_size() for group in snapshot.tensors.values() for t in group.values())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(f"it needs {need / 2**20:.0f} MiB and {folder} has {free / 2**20:.0f} MiB free")


def remedy(error: OSError | SafetensorError) -> str:
    """Say what helps if a file cannot be written. safetensors gives the number of an error of the system as text."""
    told = re.search(r"os error (\d+)", str(error))
    number = int(told[1]) if told else error.errno if isinstance(error, OSError) else None
    if number in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # None: of `_require_space`
        return "free some space"
    return "make the folder writable, or copy the run to another disk,"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(manifest: dict) -> str:
    """Return the sha256 of the entries of a manifest, in a fixed order and form."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

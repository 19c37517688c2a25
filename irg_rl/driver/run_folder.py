"""A run folder: the folder with all files of one run. It contains the complete recipe and the list of finished
stages."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from irg_rl.config import Recipe, RecipeError, parse_recipe
from irg_rl.errors import InputError, UserError
from irg_rl.imports import remember_folders, user_folders
from irg_rl.redact import remember_secret
from irg_rl.text_in import read_json, read_text

SFT_MODELS = {"base": "pretrain", "stage1": "sft1", "stage2": "sft2"}
"""Name of an SFT stage in the recipe -> name of the same stage in the list of the run's stages. The latter is also the
name of the model folder that the stage makes."""

TRAINED = ("rl", *reversed(SFT_MODELS.values()))
"""Names of the model folders that a run trains, in reverse order: the stage that runs last comes first."""


LOCK = ".lock"
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "trl", "diffusers", "open-clip-torch")
"""Packages whose versions are recorded, because results depend on them."""


class RunError(UserError, RuntimeError):
    """Raised if a run cannot start or continue. The message says what happened, where, and what to do."""


def write_json(path: Path, data) -> None:
    """Write a JSON file atomically: a reader sees either the old content or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(data, indent=1))
    os.replace(aside, path)


@dataclass
class Run:
    """A run and its folder. The folder contains recipe, stages, metrics, world (prompts and data), checkpoints,
    scorers, evaluation and samples. The dict `stages` has facts about each stage that has begun, such as its time. Its
    keys are the names of the stages."""

    folder: Path
    recipe: Recipe
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    restarts_stage: bool = False
    """Whether a stage begins anew if all its checkpoints are damaged. False: this is an error."""
    _counted: float = field(default=0.0, repr=False)  # time.monotonic() at the last record of stage time

    @classmethod
    def create(cls, recipe: Recipe, begin: Callable[["Run"], None] = lambda run: None) -> "Run":
        """Make the folder `output_dir/name` of a new run, and return the run. If a folder of this name already exists,
        it does not change. The new run then gets the first free name among `name-2`, `name-3`, ... instead. `begin` is
        a function that is called with the new run and writes its first files.

        The folder is first made under a temporary name. It gets its final name when it is complete. Raises RunError if
        the folder cannot be made.
        """
        base = Path(recipe.output_dir)
        aside = base / f".{recipe.name}.{os.getpid()}"
        try:
            aside.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"{base}: a run can't be made there ({error}); choose another output_dir") from error
        try:
            with (aside / LOCK).open("w") as handle:
                _lock(handle, base)  # if the disk has no file locks, this already raises
            begin(run := cls(aside, recipe))
            write_json(aside / "environment.json", environment(recipe))
            (aside / "recipe.yaml").write_text(f"# digest {recipe.digest()}\n{recipe.to_yaml()}")
            run.folder = _claim(aside, base, recipe.name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run, for example to resume, evaluate or report it.

        Raises RunError if the folder is not a run, or if its files are damaged. Default values can change with the
        version of the program. RunError is also raised if the recipe of the run has another meaning for this reason.
        """
        path = folder / "recipe.yaml"
        if not path.is_file():
            raise RunError(f"{folder}: not a run folder (no recipe.yaml); `irg-rl train RECIPE` makes one")
        stages = folder / "stages.json"
        try:
            recipe = parse_recipe(yaml.safe_load(read_text(path)), where=str(path))
        except RecipeError as error:
            raise RunError(f"{error}\nthe run was made by another version of irg-rl") from error
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({error}); start the run anew") from error
        entries = _read(_STAGES, stages) if stages.is_file() else {}
        made = _read(_ENVIRONMENT, folder / "environment.json")
        remember_folders(*map(Path, made.imports))
        _remember_keys(recipe)
        if recipe.digest() != made.digest:
            raise RunError(
                f"{folder}: its recipe means something else now (digest {made.digest} when it was made, "
                f"{recipe.digest()} with this version of irg-rl, whose defaults differ): use the version that made it"
            )
        return cls(folder, recipe, {name: entry.model_dump(exclude_unset=True) for name, entry in entries.items()})

    @property
    def sft_model(self) -> str | None:
        """Return the name of the model folder that the last SFT stage makes, or None if the recipe has no SFT."""
        sft = self.recipe.sft
        return None if sft is None else SFT_MODELS[list(sft.stages)[-1]]

    def path(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def is_done(self, stage: str) -> bool:
        return self.stages.get(stage, {}).get("done", False)

    def record(self, stage: str, seconds: float, done: bool, **facts) -> None:
        """Store `facts` about a stage in stages.json, and add `seconds` to its time. `done` says whether the stage is
        finished. The time is added, not replaced. So the time of a resumed stage includes the time before the
        interruption."""
        entry = self.stages.setdefault(stage, {"seconds": 0.0})
        entry.update(facts, seconds=round(entry["seconds"] + seconds, 2), done=done)
        entry["budget_minutes"] = self.recipe.budget_minutes.get(stage)
        write_json(self.folder / "stages.json", self.stages)

    @contextmanager
    def stage(self, name: str):
        """Give a context (for `with`) in which the stage `name` runs. The context measures the time of the stage, and
        marks the stage as done at the end. It gives an empty dict to the `with` block. Everything that the block puts
        into this dict is stored in stages.json."""
        facts: dict = {}
        self._counted = time.monotonic()
        try:
            yield facts
        except BaseException:
            self.count_time(name, **facts)
            raise
        self.count_time(name, done=True, **facts)

    def count_time(self, name: str, done: bool = False, **facts) -> None:
        """Add the time since the last call of this method to the recorded time of the stage `name`. The first call adds
        the time since the stage began. `done` and `facts` are stored as in `record`.

        This method is called at every checkpoint. So if a run is killed, its recorded time ends at its last checkpoint.
        `irg-rl baseline` needs this time, because it trains for as long as RL took.
        """
        now = time.monotonic()
        self.record(name, now - self._counted, done=done, **facts)
        self._counted = now

    @contextmanager
    def lock(self):
        """Lock the run for the time of a `with` block. Only one process at a time may work on a run. If the process is
        killed, the operating system releases its lock.

        Raises RunError if another process holds the lock.
        """
        with (self.folder / LOCK).open("w") as handle:
            _lock(handle, self.folder)
            yield


def _lock(handle: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(f"{folder}: another process works on this run; wait for it or stop it") from error
    except OSError as error:
        raise RunError(f"{folder}: its disk has no file locks ({error.strerror}); choose another output_dir") from error


def _claim(aside: Path, base: Path, name: str) -> Path:
    """Rename the complete folder `aside` to the first free name among `name`, `name-2`, `name-3`, ... in the folder
    `base`. Return the new path. Raises RunError if a thousand names are taken."""
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            with suppress(OSError):  # another run was quicker
                return aside.rename(folder)
    raise RunError(f"{base}: a thousand runs of {name} exist; choose another output_dir")


class _StageEntry(BaseModel):
    """The entries of a stage in stages.json that the program reads, with their types. There may be others."""

    model_config = ConfigDict(strict=True, extra="allow")
    seconds: Annotated[float, Field(ge=0)]
    done: bool
    steps: int = 0
    gate: bool | None = None
    failures: list[str] = []


class _Environment(BaseModel):
    """The entries of environment.json that the program reads, with their types. There may be others."""

    model_config = ConfigDict(strict=True)
    digest: str
    imports: list[Annotated[str, Field(pattern=r"^[^\x00]*$")]] = []


_STAGES, _ENVIRONMENT = TypeAdapter(dict[str, _StageEntry]), TypeAdapter(_Environment)
T = TypeVar("T")


def _read(kind: TypeAdapter[T], path: Path) -> T:
    """Read a JSON file of a run. Raises RunError that names the file and the first key that is wrong."""
    try:
        return kind.validate_python(read_json(path))
    except InputError as error:
        raise RunError(f"{error}: the file is damaged; put back a copy of it, or start the run anew") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(
            f"{path} is damaged: {key}: {first['msg']}; put back a copy of the file, or start the run anew"
        ) from error


def _remember_keys(recipe: Recipe) -> None:
    """From now on, hide in all output the values of the environment variables that the recipe names in
    `api_key_env`."""
    for scorer in recipe.rewards.scorers:
        splitter = scorer.options.get("splitter")
        given = (scorer.options, splitter if isinstance(splitter, dict) else {})
        for name in (scorer.api_key_env, *(options.get("api_key_env") for options in given)):
            if isinstance(name, str) and name:
                remember_secret(name)


def environment(recipe: Recipe) -> dict:
    """Return facts about the program and the machine for environment.json: digest of the recipe, git commit, CPU cores,
    versions of packages, time of the start, and folders of the user's modules. The dict contains no secrets."""
    from importlib.metadata import version

    return {
        "digest": recipe.digest(),
        "commit": source_commit(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "imports": [*user_folders(), os.getcwd()],
    }


def source_commit() -> str:
    """Return the short git commit of the program's source code, or "unknown" if it is an installed package or if git is
    missing."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        head = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return head.stdout.strip() or "unknown"

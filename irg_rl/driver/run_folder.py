"""A run folder: the resolved recipe, the finished stages, and the paths of all files."""

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
from typing import IO, Any

import yaml

from irg_rl.config import Recipe, RecipeError, parse_recipe
from irg_rl.errors import UserError
from irg_rl.imports import remember_folders, user_folders
from irg_rl.redact import remember_secret
from irg_rl.text_in import read_json, read_text

SFT_MODELS = {"base": "pretrain", "stage1": "sft1", "stage2": "sft2"}
"""SFT stage of a recipe -> stage of a run. The model folder that it makes has the same name."""

TRAINED = ("rl", *reversed(SFT_MODELS.values()))
"""Trained model folders of a run, the newest first."""


LOCK = ".lock"


class RunError(UserError, RuntimeError):
    """A run cannot start or continue. The message says what happened, where, and what to do."""


def write_json(path: Path, data) -> None:
    """Write a file atomically: a reader sees either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(data, indent=1))
    os.replace(aside, path)


@dataclass
class Run:
    """A folder with recipe, stages, metrics, world, checkpoints, scorers, evaluation and samples."""

    folder: Path
    recipe: Recipe
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    _counted: float = field(default=0.0, repr=False)  # monotonic time up to which the current stage's time is recorded

    @classmethod
    def create(cls, recipe: Recipe, begin: Callable[["Run"], None] = lambda run: None) -> "Run":
        """Make a new folder `output_dir/name[-k]`. An existing folder is never used. `begin` writes the first files.

        The folder appears complete or not at all."""
        base = Path(recipe.output_dir)
        aside = base / f".{recipe.name}.{os.getpid()}"
        try:
            aside.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"{base}: a run can't be made there ({error}); choose another output_dir") from error
        try:
            with (aside / LOCK).open("w") as handle:
                _lock(handle, base)  # a disk without file locks is an error right here
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
        """An existing run, to resume, evaluate or report."""
        path = folder / "recipe.yaml"
        if not path.is_file():
            raise RunError(f"{folder}: not a run folder (no recipe.yaml); `irg-rl train RECIPE` makes one")
        stages = folder / "stages.json"
        try:
            recipe = parse_recipe(yaml.safe_load(read_text(path)), where=str(path))
            run = cls(folder, recipe, _stages(stages) if stages.is_file() else {})
            facts = read_json(folder / "environment.json")
            made = facts["digest"]
            remember_folders(*map(Path, _words(facts.get("imports", []))))
        except RecipeError as error:
            raise RunError(f"{error}\nthe run was made by another version of irg-rl") from error
        except (yaml.YAMLError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            files = "recipe.yaml, stages.json or environment.json"
            raise RunError(f"{folder}: {files} is damaged ({error}); start the run anew") from error
        _remember_keys(recipe)
        if recipe.digest() != made:
            raise RunError(
                f"{folder}: its recipe means something else now (digest {made} when it was made, {recipe.digest()} "
                "with this version of irg-rl, whose defaults differ): use the version that made it"
            )
        return run

    @property
    def sft_model(self) -> str | None:
        """Name of the model folder that the last SFT stage makes. None without SFT."""
        sft = self.recipe.sft
        return None if sft is None else SFT_MODELS[list(sft.stages)[-1]]

    def path(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def is_done(self, stage: str) -> bool:
        return self.stages.get(stage, {}).get("done", False)

    def record(self, stage: str, seconds: float, done: bool, **facts) -> None:
        """Add `seconds` to the time of the stage and store its facts. The time of a resumed stage adds up."""
        entry = self.stages.setdefault(stage, {"seconds": 0.0})
        entry.update(facts, seconds=round(entry["seconds"] + seconds, 2), done=done)
        entry["budget_minutes"] = self.recipe.budget_minutes.get(stage)
        write_json(self.folder / "stages.json", self.stages)

    @contextmanager
    def stage(self, name: str):
        """Measure the time of a stage and mark it done at the end. The body may put facts into the dict that it
        gets."""
        facts: dict = {}
        self._counted = time.monotonic()
        try:
            yield facts
        except BaseException:
            self.count_time(name, **facts)
            raise
        self.count_time(name, done=True, **facts)

    def count_time(self, name: str, done: bool = False, **facts) -> None:
        """Record the time of the current stage since the last call. It is called at every checkpoint, so a kill loses
        the same amount of time and of work. `irg-rl baseline` trains for as long as RL took."""
        now = time.monotonic()
        self.record(name, now - self._counted, done=done, **facts)
        self._counted = now

    @contextmanager
    def lock(self):
        """Only one process at a time may work on a run. A killed process leaves no lock."""
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
    """Rename a finished folder to the first free `name[-k]`."""
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            with suppress(OSError):  # another run was quicker
                return aside.rename(folder)
    raise RunError(f"{base}: a thousand runs of {name} exist; choose another output_dir")


def _stages(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of stages.json by stage. ValueError if the file has another form."""
    stages = read_json(path)
    if not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise ValueError(f"{path} is not a mapping of stages")
    for name, entry in stages.items():
        if not isinstance(entry.get("seconds"), int | float) or not isinstance(entry.get("done"), bool):
            raise ValueError(f"{path}: stage {name!r} needs the entries 'seconds' and 'done'")
    return stages


def _words(given: object) -> list[str]:
    """Folders that environment.json names; ValueError for what no folder is called."""
    if not isinstance(given, list) or not all(isinstance(one, str) and "\0" not in one for one in given):
        raise ValueError("imports is no list of folders")
    return given


def _remember_keys(recipe: Recipe) -> None:
    """Redact the values of all variables that `api_key_env` names in the recipe."""
    for scorer in recipe.rewards.scorers:
        if scorer.api_key_env:
            remember_secret(scorer.api_key_env)


def environment(recipe: Recipe) -> dict:
    """Versions, commit and machine of a run, for environment.json. Contains no secrets."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "deepspeed", "ray", "trl", "diffusers", "open-clip-torch")
    return {
        "digest": recipe.digest(),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "imports": [*user_folders(), os.getcwd()],
    }


def _commit() -> str:
    """Commit of the source, or "unknown" for an installed package or without git."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        head = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return head.stdout.strip() or "unknown"

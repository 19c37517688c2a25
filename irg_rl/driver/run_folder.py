"""A run folder: the resolved recipe, which stages are done, and where each room puts its files."""

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

import yaml

from irg_rl.config import Recipe, RecipeError, parse_recipe
from irg_rl.errors import UserError

SFT_MODELS = {"base": "pretrain", "stage1": "sft1", "stage2": "sft2"}
"""SFT stages of a recipe -> stages of a run, which are also the names of the model folders they make."""

TRAINED = ("rl", *reversed(SFT_MODELS.values()))
"""Trained model folders of a run, those made last first."""


class RunError(UserError, RuntimeError):
    """A run that can't start or go on; the message says what, where and what to do."""


def write_json(path: Path, data) -> None:
    """Atomic: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(data, indent=1))
    os.replace(aside, path)


@dataclass
class Run:
    """A folder with recipe, stages, metrics, world, checkpoints, scorers, evaluation and samples."""

    folder: Path
    recipe: Recipe
    stages: dict[str, dict] = field(default_factory=dict)
    _counted: float = field(default=0.0, repr=False)  # until when the time of the stage is recorded, monotonic

    @classmethod
    def create(cls, recipe: Recipe, begin: Callable[["Run"], None] = lambda run: None) -> "Run":
        """A new folder `output_dir/name[-k]`, never one that exists; `begin` puts in what it starts with. It appears
        whole or not at all."""
        base = Path(recipe.output_dir)
        aside = base / f".{recipe.name}.{os.getpid()}"
        try:
            aside.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"{base}: a run can't be made there ({error}); choose another output_dir") from error
        try:
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
            recipe = parse_recipe(yaml.safe_load(path.read_text()), where=str(path))
            run = cls(folder, recipe, json.loads(stages.read_text()) if stages.is_file() else {})
            made = json.loads((folder / "environment.json").read_text())["digest"]
        except RecipeError as error:
            raise RunError(f"{error}\nthe run was made by another version of irg-rl") from error
        except (yaml.YAMLError, ValueError, KeyError, OSError) as error:
            files = "recipe.yaml, stages.json or environment.json"
            raise RunError(f"{folder}: {files} is damaged ({error}); start the run anew") from error
        if recipe.digest() != made:
            raise RunError(
                f"{folder}: its recipe means something else now (digest {made} when it was made, {recipe.digest()} "
                "with this version of irg-rl, whose defaults differ): use the version that made it"
            )
        return run

    @property
    def sft_model(self) -> str | None:
        """The model folder that SFT ends with; None without SFT."""
        sft = self.recipe.sft
        return None if sft is None else SFT_MODELS[list(sft.stages)[-1]]

    def path(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def is_done(self, stage: str) -> bool:
        return self.stages.get(stage, {}).get("done", False)

    def record(self, stage: str, seconds: float, done: bool, **facts) -> None:
        """Add `seconds` to what the stage has cost so far (a resumed stage adds up) and keep its facts."""
        entry = self.stages.setdefault(stage, {"seconds": 0.0})
        entry.update(facts, seconds=round(entry["seconds"] + seconds, 2), done=done)
        entry["budget_minutes"] = self.recipe.budget_minutes.get(stage)
        write_json(self.folder / "stages.json", self.stages)

    @contextmanager
    def stage(self, name: str):
        """Time a stage and mark it done when its body ends; the body may put facts into the dict it gets."""
        facts: dict = {}
        self._counted = time.monotonic()
        try:
            yield facts
        except BaseException:
            self.count_time(name, **facts)
            raise
        self.count_time(name, done=True, **facts)

    def count_time(self, name: str, done: bool = False, **facts) -> None:
        """Record what the stage that is going on has cost since the last call; at every checkpoint, so that a kill
        loses no more time than work. `irg-rl baseline` trains for as long as RL took."""
        now = time.monotonic()
        self.record(name, now - self._counted, done=done, **facts)
        self._counted = now

    @contextmanager
    def lock(self):
        """One process at a time works on a run; a killed one leaves no lock behind."""
        with (self.folder / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"{self.folder}: another process works on this run; wait for it or stop it") from error
            yield


def _claim(aside: Path, base: Path, name: str) -> Path:
    """Rename a finished folder to the first free `name[-k]`."""
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            with suppress(OSError):  # another run was quicker
                return aside.rename(folder)
    raise RunError(f"{base}: a thousand runs of {name} exist; choose another output_dir")


def environment(recipe: Recipe) -> dict:
    """What a reader of the results wants to know of how they came about; no secrets."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "deepspeed", "ray", "trl", "diffusers", "open-clip-torch")
    return {
        "digest": recipe.digest(),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _commit() -> str:
    """Commit of the source; unknown for an installed package or without git."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        head = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return head.stdout.strip() or "unknown"

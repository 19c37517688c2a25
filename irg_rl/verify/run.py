"""Runs all checks of a model folder, one after the other, and collects what the page and the JSON file show."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from irg_rl.driver.run_folder import PACKAGES, source_commit
from irg_rl.errors import InputError
from irg_rl.model.folder import Folder, check_folder
from irg_rl.verify.bench import FORMAT, Reference, Workbench
from irg_rl.verify.budget_check import budget
from irg_rl.verify.check import FolderCheck, Result, Status, attempt
from irg_rl.verify.clean import clean
from irg_rl.verify.finding import GIB
from irg_rl.verify.folder_checks import keys_and_shapes, tokenizer, weights
from irg_rl.verify.number_checks import autoencoder, language, velocity, vision
from irg_rl.verify.sampling_checks import generation, parity
from irg_rl.verify.settings import verify_recipe, write_data
from irg_rl.verify.training_checks import model_folder, save_and_reload, score, sft_step, update

CHECKS = (
    FolderCheck("keys and shapes", "Every weight is there, with the shape that the JSON files say.", keys_and_shapes),
    FolderCheck("tokenizer", "Texts come back as they were, boundary tokens are right, the files agree.", tokenizer),
    FolderCheck("weights", "Every number is read: finite, no holes, tables as their formula, experts alike.", weights),
    FolderCheck("language", "The model prefers plain English to the same tokens in random order.", language),
    FolderCheck("vision", "The model names the colour of a disc that it is shown.", vision),
    FolderCheck("autoencoder", "A picture that is encoded and decoded comes back.", autoencoder),
    FolderCheck("velocity", "The model knows where a noisy picture comes from.", velocity),
    FolderCheck("generation", "Two turns: think, draw, look, reflect, draw again.", generation),
    FolderCheck("parity", "The learner computes the log-probabilities that the sampler had.", parity),
    FolderCheck("score", "Every scorer of the recipe scores every image.", score),
    FolderCheck("update", "One update of RL with adapters.", update),
    FolderCheck("save and reload", "A checkpoint in a new learner, which agrees with new samples.", save_and_reload),
    FolderCheck("model folder", "Adapters are merged into the weights, written, and read again.", model_folder),
    FolderCheck("sft", "One step of SFT on a pack of rows, with validation and checkpoint.", sft_step),
    FolderCheck("memory and time", "What was measured, against what `irg-rl plan` says.", budget),
)
"""All checks in the order in which they run. Later ones use what earlier ones drew or trained."""


@dataclass(frozen=True)
class Verification:
    """The results of all checks, with everything that a later verification is compared with."""

    results: list[Result]
    bench: Workbench
    seconds: float
    against: bool

    @property
    def failed(self) -> list[str]:
        return [result.check.name for result in self.results if result.status is Status.FAILED]

    def content(self) -> dict[str, Any]:
        """Return what verify.json holds and the page shows, free of secrets and of paths."""
        recipe = self.bench.made
        found = {
            "kind": "verify", "format": FORMAT, "made": time.strftime("%Y-%m-%d"),
            "seconds": round(self.seconds, 1), "against_reference": self.against, "machine": machine(),
            "recipe": None if recipe is None else recipe.model_dump(mode="json"),
            "checks": [_record(result) for result in self.results],
        }  # fmt: skip
        places = {"folder": self.bench.folder, "scratch": self.bench.scratch, "home": Path.home(), "here": Path.cwd()}
        return clean(found, places) | {"reference": self.bench.kept.model_dump()}


def verify(folder: Path, out: Path, overrides: Sequence[str], against: Path | None) -> Iterator[Result | Verification]:
    """Run all checks of the model folder. Yield the result of each check when it is there, and at the end everything.

    Temporary files are below `out`. `overrides` (key=value) replace settings of the recipe, and `against` is a
    verify.json of an earlier verification. Raises InputError if `folder` is no folder or `against` no such file, and
    RecipeError if an override is wrong. Whatever else goes wrong is the result of a check.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a model folder in BAGEL's layout")
    reference = None if against is None else Reference.read(against)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=out) as name:
        scratch = Path(name)
        checked = _checked(folder)
        recipe = None if checked is None else verify_recipe(folder, checked.model.config, scratch, overrides)
        bench = Workbench(folder, scratch, checked, recipe, reference)
        if recipe is not None:
            write_data(recipe, scratch)
            torch.set_num_threads(recipe.engine.threads)
            bench.kept.dtype = recipe.engine.dtype
        results: list[Result] = []
        try:
            for check in CHECKS:
                results.append(attempt(check, bench))
                yield results[-1]
        finally:
            bench.release()
        yield Verification(results, bench, time.perf_counter() - begin, reference is not None)


def machine() -> dict[str, Any]:
    """Return facts about the program and the machine, without names of the machine or of the user."""
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "irg-rl": version("irg-rl"), "commit": source_commit(), "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(),
        "gpus": [f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in gpus] or ["none"],
        "cuda": torch.version.cuda, "versions": {package: version(package) for package in PACKAGES},
    }  # fmt: skip


def _checked(folder: Path) -> Folder | None:
    """Return the checked folder, or None if it is broken. The check of keys and shapes then says why."""
    try:
        return check_folder(folder)
    except InputError:
        return None


def _record(result: Result) -> dict[str, Any]:
    return {
        "name": result.check.name, "about": result.check.about, "status": str(result.status), "reason": result.reason,
        "seconds": round(result.seconds, 2), "gpu_gib": None if result.gpu_gib is None else round(result.gpu_gib, 2),
        "requirements": [vars(requirement) for requirement in result.finding.requirements],
        "facts": result.finding.facts,
    }  # fmt: skip

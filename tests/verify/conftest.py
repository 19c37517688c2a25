"""A sound model folder of the tiny model, what a verification of it has kept, and benches to run single checks on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from irg_rl.errors import InputError
from irg_rl.model.folder import check_folder, save_folder
from irg_rl.verify.bench import Reference, Workbench
from irg_rl.verify.check import FolderCheck, Result, attempt
from irg_rl.verify.finding import Finding
from irg_rl.verify.settings import verify_recipe, write_data

SMALL = [
    "engine.threads=1", "sampling.max_text_tokens=6", "sampling.points=4", "evaluation.points=3", "rl.group_size=2",
    "sampling.system_prompt=draw",
]  # fmt: skip


@pytest.fixture(scope="session")
def sound(world, tmp_path_factory) -> Path:
    """A folder with nothing wrong. Tests that change it copy it."""
    path = tmp_path_factory.mktemp("sound") / "model"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return path


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "model")


@pytest.fixture
def bench(tmp_path):
    """bench(folder, reference=None, *overrides) -> Workbench"""

    def make(folder: Path, reference: Reference | None = None, *overrides: str) -> Workbench:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        try:
            checked = check_folder(folder)
        except InputError:
            return Workbench(folder, scratch, None, None, reference)
        recipe = verify_recipe(folder, checked.model.config, scratch, [*SMALL, *overrides])
        write_data(recipe, scratch)
        made = Workbench(folder, scratch, checked, recipe, reference)
        made.kept.dtype = recipe.engine.dtype
        return made

    return make


def run(check: Callable[[Workbench, Finding], None], bench: Workbench) -> Result:
    return attempt(FolderCheck("a check", "", check), bench)


def wrong(result: Result) -> dict[str, str]:
    """What did not hold -> what was found."""
    return {r.what: r.found for r in result.finding.requirements if r.holds is False}

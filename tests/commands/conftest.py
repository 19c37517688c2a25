"""The real entry point, called in this process: what it says and how it ends."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.commands.cli import main
from irg_rl.commands.run import Run
from irg_rl.config import Recipe, load_recipe
from tests.commands.finished import finished_run
from tests.learner.world import TinyWorld, make_world

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def irg_rl(capsys, monkeypatch):
    """irg_rl("check", path) -> Answer, as the shell would see it."""

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["irg-rl", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return load_recipe(CONFIGS / "shapes-smoke.yaml", [f"output_dir={tmp_path / 'runs'}"])


@pytest.fixture(scope="package")
def world(tmp_path_factory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")  # other modules fork, which Ray's threads would not survive
def local_ray(tmp_path_factory):
    with LocalRay(RaySettings(num_cpus=2, object_store_mb=128), tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest.fixture(scope="package")
def finished(world, tmp_path_factory) -> Path:
    return finished_run(world, tmp_path_factory.mktemp("finished")).folder


@pytest.fixture
def run(finished, tmp_path) -> Run:
    """A copy of the tiny run after SFT and RL, to work on."""
    return Run.open(shutil.copytree(finished, tmp_path / "tiny"))

"""Fixtures that several packages of tests use."""

import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.paths import CONFIGS


def pytest_configure() -> None:
    """Let Ctrl-C interrupt. A script that starts the tests in the background starts them with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first. Where two files run at a time, no core then waits for a slow file at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def irg_rl(capsys, monkeypatch):
    """irg_rl("check", path) -> Answer, as the shell would see it; the real entry point, called in this process."""
    from irg_rl.commands.cli import main

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
def recipe(tmp_path):
    from irg_rl.config import load_recipe

    return load_recipe(CONFIGS / "shapes-smoke.yaml", [f"output_dir={tmp_path / 'runs'}"])


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The tiny model with its autoencoder and tokenizer (tests/learner/world.py)."""
    from tests.learner.world import make_world

    return make_world(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")  # other modules fork, which Ray's threads would not survive
def local_ray(tmp_path_factory):
    from irg_rl.cluster.ray_runtime import LocalRay, RaySettings

    with LocalRay(RaySettings(num_cpus=2, object_store_mb=128), tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> Path:
    from tests.driver.finished import finished_run

    return finished_run(world, tmp_path_factory.mktemp("finished")).folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the tiny run after SFT and RL, to work on."""
    from irg_rl.driver.run_folder import Run

    return Run.open(shutil.copytree(finished, tmp_path / "tiny"))

"""One demonstration run for all tests that read; those that change it copy it."""

import shutil
from pathlib import Path

import pytest

from tests.report.demo import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", n=12)


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "demo")

"""The real entry point, called in this process: what it says and how it ends."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from irg_rl.commands.cli import main
from irg_rl.config import Recipe, load_recipe

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

"""The reference checkpoint, and small models of the program's own."""

import json
from pathlib import Path

import pytest
import torch

from irg_rl.model.folder import Folder, load_folder
from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from tests.golden import ROOT
from tests.model.sizes import SPECIAL, tiny_config


@pytest.fixture(scope="session")
def bagel() -> Folder:
    path = ROOT / "bagel" / "checkpoint"
    return load_folder(path)


@pytest.fixture(scope="session")
def meta() -> dict:
    return read_json("meta")


@pytest.fixture(scope="session")
def tiny() -> UnifiedModel:
    """A small model whose velocity head is not zero."""
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def read_json(name: str) -> dict:
    path: Path = ROOT / "bagel" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))

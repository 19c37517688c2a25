"""`irg-rl generate` with a tiny model that has learnt nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.commands.prepare import BASE
from irg_rl.commands.run import Run
from tests.commands.begun import begun_run


@pytest.fixture
def run(world, tmp_path) -> Run:
    """A run after SFT whose evaluation is guided."""
    made = begun_run(
        world, tmp_path, sampling={"points": 4, "max_text_tokens": 6}, evaluation={"guidance": {"text_scale": 4.0}},
        rl={"noise": {"window_size": 1, "window_range": [0, 3]}},
    )  # fmt: skip
    shutil.copytree(made.path(BASE), made.path("models", "sft1"))
    return made


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*_turn0.png"))])


def test_generate_guides_as_its_run_does_unless_told_otherwise(run, irg_rl, tmp_path):
    folders = {name: tmp_path / name for name in ("as_the_run", "told_the_same", "unguided")}
    options = {"as_the_run": [], "told_the_same": ["--text-scale", 4], "unguided": ["--text-scale", 1]}
    for name, folder in folders.items():
        words = ("--prompt", "a red circle", "--turns", 1, "--out", folder, *options[name])
        assert irg_rl("generate", run.folder, *words).code == 0
    settings = {name: json.loads((folder / "settings.json").read_text()) for name, folder in folders.items()}
    assert settings["as_the_run"]["guidance"]["text_scale"] == 4.0 and settings["as_the_run"]["device"] == "cpu"
    assert settings["as_the_run"]["sampling"] == run.recipe.sampling.model_dump(mode="json")
    drawn = {name: pictures(folder) for name, folder in folders.items()}
    assert np.array_equal(drawn["as_the_run"], drawn["told_the_same"])
    assert not np.array_equal(drawn["as_the_run"], drawn["unguided"])


def test_guidance_by_images_alone_is_refused(run, irg_rl, tmp_path):
    words = ("--prompt", "a red circle", "--text-scale", 1, "--image-scale", 2, "--out", tmp_path / "out")
    assert "--image-scale 2.0 does nothing without --text-scale above 1" in irg_rl("generate", run.folder, *words).err
    assert not (tmp_path / "out").exists()

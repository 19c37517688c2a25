"""Prompts, first images and recipes for data sets."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from irg_rl.config.data import DataRecipe, load_data_recipe
from irg_rl.data.build import Built, build
from irg_rl.data.survey import survey
from irg_rl.prompts import write_prompts
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.trajectory import Prompt
from sft.dataset import Rejections, RowSource


def no_painter(target: str):
    raise AssertionError(f"{target}: nothing is to be drawn here")


def built(recipe: DataRecipe) -> Built:
    return build(recipe, no_painter, lambda number: None)


def save(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def shapes(folder: Path, count: int, right: int = 3) -> list[Prompt]:
    """Write prompts of the shapes world and first images: every `right`-th one is right, the others have a defect."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = make_prompts(count, "train", seed=5)
    rng, images = random.Random(1), {}
    for number, prompt in enumerate(prompts):
        scene = sample_scene(prompt.metadata, rng)
        images[prompt.id] = render(scene if number % right == 0 else corrupt(scene, prompt.metadata, rng, 1))
    write_prompts(folder / "prompts.jsonl", prompts)
    save(folder / "images", images)
    return prompts


def landscapes(folder: Path, depths: Sequence[float], place) -> list[Prompt]:
    """Write prompts and 64-pixel landscapes, made by `place(seed, depth)`."""
    names = [f"valley{number}" for number in range(len(depths))]
    prompts = [Prompt(name, f"a wide landscape with hills near {name}") for name in names]
    write_prompts(folder / "prompts.jsonl", prompts)
    save(folder / "images", {name: place(seed, depth) for seed, (name, depth) in enumerate(zip(names, depths))})
    return prompts


def write_recipe(folder: Path, **sections: Any) -> DataRecipe:
    """A recipe of the prompts and images in `folder`, with other sections as given. They replace these ones key by
    key."""
    settings: dict[str, Any] = {
        "out": str(folder / "out"),
        "prompts": {"file": str(folder / "prompts.jsonl")},
        "images": {"folder": str(folder / "images")},
        "teacher": {"model": "teacher", "retries": 0},
        "rows": {"prompts_per_part": 8},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_data_recipe(path)


def counts(folder: Path) -> dict:
    return json.loads((folder / "out" / "counts.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "left_out.jsonl").read_text().splitlines()]


def rows(folder: Path, mode: str) -> list:
    """All rows of a mode, as the stream of SFT reads them, in the order of their prompts."""
    rejections = Rejections()
    source = RowSource(folder / "out" / mode, 0, rejections)
    found = [source.draw() for _ in range(survey(folder / "out" / mode).rows)]
    assert source.epoch == 0 and not rejections.seen
    return sorted(found, key=lambda row: row[0].text)

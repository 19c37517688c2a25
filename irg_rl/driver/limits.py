"""Time limits for work whose time depends on the size of the weights, such as loading a model of 29 GB. A constant
limit would be too short for a large model.

    limit = shortest + bytes / SLOWEST

All limits are in seconds. `shortest` is `engine.deadline_s`, or START_S if a process starts and this is longer.
"""

from pathlib import Path

from irg_rl.config import LoraRecipe, Recipe
from irg_rl.learner.sizes import published_bytes, saved_bytes

START_S = 300.0
"""Seconds that a process may take to start (to import torch and DeepSpeed), without the time for its weights."""
SLOWEST = 100e6
"""Bytes per second of the slowest disk or network on which a run must not be given up."""


def start_limit(recipe: Recipe, *read: Path) -> float:
    """Return the longest time that a process may take to start. `read` are the files and folders that it reads."""
    return max(START_S, recipe.engine.deadline_s) + sum(map(bytes_in, read)) / SLOWEST


def sending_limit(recipe: Recipe, lora: LoraRecipe | None) -> float:
    """Return the longest time for sending the trained weights from one process to another."""
    return recipe.engine.deadline_s + published_bytes(recipe.model, lora) / SLOWEST


def saving_limit(recipe: Recipe, lora: LoraRecipe | None) -> float:
    """Return the longest time for writing or reading a checkpoint. The ranks of a learner wait for each other as long,
    because only the first one writes."""
    return recipe.engine.deadline_s + saved_bytes(recipe.model, lora) / SLOWEST


def bytes_in(path: Path) -> int:
    """Return the number of bytes of a file, or of all files in a folder and its subfolders. It is 0 if nothing is
    there."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())

"""Rows of the six IRG learning modes: parquet, column `conversation` = JSON list of turns, a folder per mode.

A user turn is {role, content: str, need_loss}; an assistant turn's content is a list of parts, {type: text, content,
need_loss} or {type: image, content: base64 PNG, need_loss, need_vae, need_vit}. The flags alone make the mode.
"""

import base64
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.reading import Reading, read_batch, scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import IMPROVING_QUESTION, INITIAL_QUESTION, reflect, think_text
from irg_rl.trajectory import Prompt

INITIAL_UNDERSTANDING = "initial_thinking_understanding_learning"
INITIAL_GENERATION = "initial_thinking_generation_learning"
INITIAL_FULL = "initial_full_learning"
IMPROVING_UNDERSTANDING = "improving_thinking_understanding_learning"
IMPROVING_GENERATION = "improving_thinking_generation_learning"
IMPROVING_FULL = "improving_full_learning"
MODES = (
    INITIAL_UNDERSTANDING,
    INITIAL_GENERATION,
    INITIAL_FULL,
    IMPROVING_UNDERSTANDING,
    IMPROVING_GENERATION,
    IMPROVING_FULL,
)
ROW_GROUPS = 8

Row = list[dict]


def write_rows(
    out: Path | str, prompts: Sequence[Prompt], counts: dict[str, int], seed: int, stop_share: float = 0.25
) -> dict[str, Path]:
    """Write `counts[mode]` rows per mode over the prompts in turn; returns the files. Of the improving rows
    `stop_share` start from a right picture and end with the stop text, without a second picture."""
    if not prompts:
        raise ValueError("no prompts to write rows for")
    files = {}
    for mode, count in counts.items():
        rng = random.Random(f"{seed}-{mode}")
        deck = _endless(prompts, rng)
        files[mode] = write_mode(out, mode, [make_row(mode, next(deck), rng, stop_share) for _ in range(count)])
    return files


def write_mode(out: Path | str, mode: str, rows: Sequence[Row]) -> Path:
    """Write rows to `out/mode/part-00000.parquet` in several row groups; the file appears whole or not at all."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(MODES)}")
    path = Path(out) / mode / "part-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    table = pa.table({"conversation": pa.array([json.dumps(row) for row in rows], pa.string())})
    pq.write_table(table, aside, row_group_size=max(1, -(-len(rows) // ROW_GROUPS)), compression="NONE")
    os.replace(aside, path)
    return path


def make_row(mode: str, prompt: Prompt, rng: random.Random, stop_share: float = 0.25) -> Row:
    """A fresh row from the renderer and the teacher."""
    right = sample_scene(prompt.metadata, rng)
    think = think_text(prompt.metadata)
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(MODES)}")
    if mode in _INITIAL:
        return _INITIAL[mode](prompt, think, render(right))
    scene = right if rng.random() < stop_share else corrupt(right, prompt.metadata, rng, rng.choice((1, 1, 2, 3)))
    return _improve(mode, prompt, render(scene), scene_reading(scene), rng)


def own_image_rows(
    images: np.ndarray, prompts: Sequence[Prompt], rng: random.Random, modes: Sequence[str] = (IMPROVING_FULL,)
) -> dict[str, list[Row]]:
    """Improving rows from a model's own first pictures, uint8 [N, 32, 32, 3], one per prompt and mode: a right picture
    becomes a stop row, a wrong one is mended in place."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts: there must be one image per prompt")
    readings = read_batch(images)
    return {mode: [_improve(mode, *item, rng) for item in zip(prompts, images, readings)] for mode in modes}


def _improve(mode: str, prompt: Prompt, first: np.ndarray, reading: Reading, rng: random.Random) -> Row:
    reflection, edits = reflect(reading, prompt.metadata, rng)
    second = apply_edits(first, reading, edits, rng) if edits and mode != IMPROVING_GENERATION else None
    return _IMPROVING[mode](prompt, think_text(prompt.metadata), first, reflection, second)


def encode_png(pixels: np.ndarray) -> str:
    """Base64 of a PNG, for uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(content: str) -> np.ndarray:
    """Inverse of `encode_png`."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def _user(text: str) -> dict:
    return {"role": "user", "content": text, "need_loss": False}


def _assistant(*parts: dict) -> dict:
    return {"role": "assistant", "content": list(parts)}


def _text(content: str, need_loss: bool) -> dict:
    return {"type": "text", "content": content, "need_loss": need_loss}


def _condition(pixels: np.ndarray) -> dict:
    content = encode_png(pixels)
    return {"type": "image", "content": content, "need_loss": False, "need_vae": True, "need_vit": True}


def _target(pixels: np.ndarray) -> dict:
    content = encode_png(pixels)
    return {"type": "image", "content": content, "need_loss": True, "need_vae": False, "need_vit": False}


def _initial_understanding(prompt: Prompt, think: str, image: np.ndarray) -> Row:
    seen = _assistant(_condition(image))
    return [_user(prompt.text), seen, _user(INITIAL_QUESTION), _assistant(_text(think, True))]


def _initial_generation(prompt: Prompt, think: str, image: np.ndarray) -> Row:
    return [_user(prompt.text), _assistant(_text(think, True))]


def _initial_full(prompt: Prompt, think: str, image: np.ndarray) -> Row:
    return [_user(prompt.text), _assistant(_text(think, True), _target(image))]


def _improving_understanding(prompt: Prompt, think: str, first: np.ndarray, reflection: str, second) -> Row:
    seen = _assistant(*(_condition(image) for image in (first, second) if image is not None))
    return [_user(prompt.text), seen, _user(IMPROVING_QUESTION), _assistant(_text(reflection, True))]


def _improving_generation(prompt: Prompt, think: str, first: np.ndarray, reflection: str, second) -> Row:
    parts = (_text(think, False), _condition(first), _text(reflection, True))
    return [_user(prompt.text), _assistant(*parts)]


def _improving_full(prompt: Prompt, think: str, first: np.ndarray, reflection: str, second) -> Row:
    parts = [_text(think, False), _condition(first), _text(reflection, True)]
    return [_user(prompt.text), _assistant(*parts, *([] if second is None else [_target(second)]))]


_INITIAL: dict[str, Callable[..., Row]] = {
    INITIAL_UNDERSTANDING: _initial_understanding,
    INITIAL_GENERATION: _initial_generation,
    INITIAL_FULL: _initial_full,
}
_IMPROVING: dict[str, Callable[..., Row]] = {
    IMPROVING_UNDERSTANDING: _improving_understanding,
    IMPROVING_GENERATION: _improving_generation,
    IMPROVING_FULL: _improving_full,
}


def _endless(prompts: Sequence[Prompt], rng: random.Random):
    while True:
        yield from rng.sample(list(prompts), len(prompts))

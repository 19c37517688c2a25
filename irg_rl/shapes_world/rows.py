"""Makes and writes training rows for the six learning modes of IRGL (Interleaving Reasoning Generation), as parquet
files.

There is one folder per mode. The column `conversation` has a JSON list of turns. A user turn is {role, content: str,
need_loss}. The content of an assistant turn is a list of texts and images: {type: text, content, need_loss} or {type:
image, content: base64 PNG, need_loss, need_vae, need_vit}. `need_loss` says whether this text or image is a training
target. `need_vae` and `need_vit` say whether the image is an input of the model, through its VAE and its ViT.
"""

import base64
import io
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from irg_rl.errors import InputError
from irg_rl.shapes_world.base_rows import BASE_MODES, EDITING, READING, base_example
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.reading import PictureReading, read, read_batch, scene_reading
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

Messages = list[dict]
Step = tuple[str, np.ndarray | None]  # a reflection and the picture it leads to


@dataclass(frozen=True)
class RowMix:
    """Shares and limits that determine which training rows are made for the improving modes. A mode is a kind of
    training row; in the improving modes, a row is about the errors of a given first picture."""

    stop_share: float = 0.25
    """Share of rows whose first picture is right. The text of these rows ends with "nothing to change", and they have
    no second picture."""
    deep_share: float = 0.25
    """Share of rows of the mode improving_full in which another reflection follows after a refined picture. In these
    rows, the refined picture is both a training target and an input. After each further refined picture, the same share
    decides again whether one more reflection follows."""
    max_turns: int = 4
    """Largest number of pictures in one training row, including the first picture. A reflection that says "nothing to
    change" counts as one picture."""
    max_fixes: int = 2
    """Largest number of defects that one reflection names."""
    overlooked: Mapping[str, float] = field(default_factory=dict)
    """Maps a kind of defect to the share of such defects that the teacher (the program that writes the texts) does not
    mention."""


def write_rows(
    out: Path | str, prompts: Sequence[Prompt], counts: dict[str, int], seed: int, mix: RowMix = RowMix()
) -> dict[str, Path]:
    """Make training rows and write them into the folder `out`. `counts` maps each learning mode (kind of row) to the
    number of its rows. Return a dict that maps each mode to the path of its file. All prompts are used before one is
    repeated. `mix` has settings for the rows about errors of a given picture. Raises ValueError if there are no
    prompts."""
    if not prompts:
        raise ValueError("no prompts to write rows for")
    files = {}
    for mode, count in counts.items():
        rng = random.Random(f"{seed}-{mode}")
        deck = _endless(prompts, rng)
        files[mode] = write_mode(out, mode, [make_row(mode, next(deck), rng, mix) for _ in range(count)])
    return files


def write_mode(out: Path | str, mode: str, rows: Sequence[Messages]) -> Path:
    """Write the training rows of one learning mode (kind of row) to the file `out/mode/part-00000.parquet`, and return
    its path. The file consists of several parquet row groups. If writing fails, no incomplete file is left. Raises
    InputError if the mode is unknown."""
    if mode not in (*MODES, *BASE_MODES):
        raise InputError(f"unknown mode {mode!r}: use one of {', '.join((*MODES, *BASE_MODES))}")
    path = Path(out) / mode / "part-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    table = pa.table({"conversation": pa.array([json.dumps(row) for row in rows], pa.string())})
    try:
        pq.write_table(table, aside, row_group_size=max(1, -(-len(rows) // ROW_GROUPS)), compression="NONE")
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # a full disk leaves no half-written file
        raise
    return path


def make_row(mode: str, prompt: Prompt, rng: random.Random, mix: RowMix = RowMix()) -> Messages:
    """Return one new training row of a learning mode (kind of row) for a prompt. A renderer makes its pictures, and the
    teacher (a program) writes its texts. `mix` has settings for the rows about errors of a given picture. The modes
    that teach the base model to draw, read and edit pictures do not use the prompt. Raises InputError if the mode is
    unknown."""
    if mode in BASE_MODES:
        return _base(mode, *base_example(mode, rng))
    right = sample_scene(prompt.metadata, rng)
    if mode in _INITIAL:
        return _INITIAL[mode](prompt, think_text(prompt.metadata), render(right))
    if mode not in _IMPROVING:
        raise InputError(f"unknown mode {mode!r}: use one of {', '.join(MODES)}")
    stops = rng.random() < mix.stop_share
    scene = right if stops else corrupt(right, prompt.metadata, rng, rng.choice((1, 1, 2, 3)))
    return improving_row(mode, prompt, render(scene), scene_reading(scene), rng, mix)


def own_image_rows(
    images: np.ndarray,
    prompts: Sequence[Prompt],
    rng: random.Random,
    modes: Sequence[str] = (IMPROVING_FULL, IMPROVING_GENERATION),
    mix: RowMix = RowMix(),
) -> dict[str, list[Messages]]:
    """Make training rows from first pictures that a model has drawn itself. Return a dict that maps each mode in
    `modes` to its rows, one row per picture. A mode is a kind of training row. All these modes must be improving modes:
    their rows are about the errors of a given first picture.

    `images` are the first pictures, uint8 [N, 24, 24, 3], one per prompt. If a picture is right, its row ends with the
    text "nothing to change". If it is wrong, the teacher (a program) repairs it. The setting `mix.stop_share` (the
    share of rows whose first picture is right) is not used. Raises ValueError if the numbers of images and prompts
    differ.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts: there must be one image per prompt")
    seen = list(zip(prompts, images, read_batch(images)))
    return {mode: [improving_row(mode, *item, rng, mix) for item in seen] for mode in modes}


def improving_row(
    mode: str, prompt: Prompt, first: np.ndarray, reading: PictureReading, rng: random.Random, mix: RowMix = RowMix()
) -> Messages:
    """Return one training row of an improving mode (a learning mode about the errors of a given first picture). The row
    begins with the picture `first`; `reading` lists the objects in it. Then comes a reflection: a text by the teacher
    (a program) that names changes. The second picture is the first one with exactly these changes. If the reflection
    asks for no change, there is no second picture. In the mode improving_full, further reflections and pictures may
    follow."""
    steps = [_step(first, reading, prompt, rng, mix)]
    while mode == IMPROVING_FULL and len(steps) < mix.max_turns - 1 and rng.random() < mix.deep_share:
        picture = steps[-1][1]
        if picture is None:
            break
        steps.append(_step(picture, read(picture), prompt, rng, mix))
    return _IMPROVING[mode](prompt, first, steps)


def _step(pixels: np.ndarray, reading: PictureReading, prompt: Prompt, rng: random.Random, mix: RowMix) -> Step:
    reflection, edits = reflect(reading, prompt.metadata, rng, mix.max_fixes, mix.overlooked)
    return reflection, apply_edits(pixels, reading, edits, rng) if edits else None


def encode_png(pixels: np.ndarray) -> str:
    """Return pixels, uint8 [H, W, 3], as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(content: str) -> np.ndarray:
    """Return the pixels of a PNG in base64. This is the opposite of `encode_png`."""
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


def _target(pixels: np.ndarray, seen_later: bool = False) -> dict:
    content = encode_png(pixels)
    return {"type": "image", "content": content, "need_loss": True, "need_vae": seen_later, "need_vit": seen_later}


def _initial_understanding(prompt: Prompt, think: str, image: np.ndarray) -> Messages:
    seen = _assistant(_condition(image))
    return [_user(prompt.text), seen, _user(INITIAL_QUESTION), _assistant(_text(think, True))]


def _initial_generation(prompt: Prompt, think: str, image: np.ndarray) -> Messages:
    return [_user(prompt.text), _assistant(_text(think, True))]


def _initial_full(prompt: Prompt, think: str, image: np.ndarray) -> Messages:
    return [_user(prompt.text), _assistant(_text(think, True), _target(image))]


def _improving_understanding(prompt: Prompt, first: np.ndarray, steps: list[Step]) -> Messages:
    [(reflection, second)] = steps
    seen = _assistant(*(_condition(image) for image in (first, second) if image is not None))
    return [_user(prompt.text), seen, _user(IMPROVING_QUESTION), _assistant(_text(reflection, True))]


def _improving_generation(prompt: Prompt, first: np.ndarray, steps: list[Step]) -> Messages:
    [(reflection, _)] = steps
    think = _text(think_text(prompt.metadata), False)
    return [_user(prompt.text), _assistant(think, _condition(first), _text(reflection, True))]


def _improving_full(prompt: Prompt, first: np.ndarray, steps: list[Step]) -> Messages:
    parts = [_text(think_text(prompt.metadata), False), _condition(first)]
    for number, (reflection, picture) in enumerate(steps, 1):
        parts.append(_text(reflection, True))
        if picture is not None:
            parts.append(_target(picture, seen_later=number < len(steps)))
    return [_user(prompt.text), _assistant(*parts)]


def _base(mode: str, texts: list[str], picture: np.ndarray, after: np.ndarray | None) -> Messages:
    if mode == READING:
        pairs = zip(texts[::2], texts[1::2])
        asked = [turn for question, answer in pairs for turn in (_user(question), _assistant(_text(answer, True)))]
        return [_assistant(_condition(picture)), *asked]
    [text] = texts
    if mode == EDITING:
        assert after is not None, "an editing row has the picture after the edit"
        return [_assistant(_condition(picture), _text(text, False), _target(after))]
    return [_user(text), _assistant(_target(picture))]


_INITIAL: dict[str, Callable[..., Messages]] = {
    INITIAL_UNDERSTANDING: _initial_understanding,
    INITIAL_GENERATION: _initial_generation,
    INITIAL_FULL: _initial_full,
}
_IMPROVING: dict[str, Callable[..., Messages]] = {
    IMPROVING_UNDERSTANDING: _improving_understanding,
    IMPROVING_GENERATION: _improving_generation,
    IMPROVING_FULL: _improving_full,
}


def _endless(prompts: Sequence[Prompt], rng: random.Random):
    while True:
        yield from rng.sample(list(prompts), len(prompts))

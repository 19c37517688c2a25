"""Makes and writes training rows for the six learning modes of IRGL (Interleaving Reasoning Generation), as parquet
files.

There is one folder per mode. The column `conversation` has one conversation per row, as JSON (see
irg_rl/learning_modes.py).
"""

import base64
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from irg_rl.errors import InputError
from irg_rl.learning_modes import (
    IMPROVING,
    IMPROVING_FULL,
    IMPROVING_GENERATION,
    INITIAL,
    MODES,
    Messages,
    assistant_turn,
    condition_image,
    improving_conversation,
    initial_conversation,
    target_image,
    text_part,
    user_turn,
    write_columns,
)
from irg_rl.shapes_world.base_rows import BASE_MODES, EDITING, READING, base_example
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.reading import PictureReading, read, read_batch, scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import IMPROVING_QUESTION, INITIAL_QUESTION, reflect, think_text
from irg_rl.trajectory import Prompt

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
    write_columns(path, {"conversation": [json.dumps(row) for row in rows]})
    return path


def make_row(mode: str, prompt: Prompt, rng: random.Random, mix: RowMix = RowMix()) -> Messages:
    """Return one new training row of a learning mode (kind of row) for a prompt. A renderer makes its pictures, and the
    teacher (a program) writes its texts. `mix` has settings for the rows about errors of a given picture. The modes
    that teach the base model to draw, read and edit pictures do not use the prompt. Raises InputError if the mode is
    unknown."""
    if mode in BASE_MODES:
        return _base(mode, *base_example(mode, rng))
    right = sample_scene(prompt.metadata, rng)
    if mode in INITIAL:
        think, image = think_text(prompt.metadata), encode_png(render(right))
        return initial_conversation(mode, prompt.text, think, image, INITIAL_QUESTION)
    if mode not in IMPROVING:
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
    encoded = [(reflection, None if picture is None else encode_png(picture)) for reflection, picture in steps]
    think = think_text(prompt.metadata)
    return improving_conversation(mode, prompt.text, think, encode_png(first), encoded, IMPROVING_QUESTION)


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


def _base(mode: str, texts: list[str], picture: np.ndarray, after: np.ndarray | None) -> Messages:
    image = encode_png(picture)
    if mode == READING:
        asked = [
            turn for question, answer in zip(texts[::2], texts[1::2])
            for turn in (user_turn(question), assistant_turn(text_part(answer, True)))
        ]  # fmt: skip
        return [assistant_turn(condition_image(image)), *asked]
    [text] = texts
    if mode == EDITING:
        assert after is not None, "an editing row has the picture after the edit"
        return [assistant_turn(condition_image(image), text_part(text, False), target_image(encode_png(after)))]
    return [user_turn(text), assistant_turn(target_image(image))]


def _endless(prompts: Sequence[Prompt], rng: random.Random):
    while True:
        yield from rng.sample(list(prompts), len(prompts))

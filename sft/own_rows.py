"""Training rows from trajectories that the model has sampled itself.

The rows have the IRG schema (see sft/rows.py) and are of the mode improving_full: prompt, think text and first image
are the context, and the reflection and the refined image are trained.
"""

import base64
import io
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from irg_rl.trajectory import Trajectory

ROWS_PER_GROUP = 64
"""Largest number of rows in a row group (a block of rows in a parquet file)."""
SCHEMA = pa.schema([("conversation", pa.string())])


def refined_row(trajectory: Trajectory) -> str:
    """Return the training row of a trajectory with two images, as JSON. It teaches the reflection and the second image.
    Raises ValueError if the trajectory has not exactly two images."""
    if trajectory.turns != 2:
        raise ValueError(f"prompt {trajectory.prompt.id!r}: {trajectory.turns} images; a row of this kind has two")
    think, reflection = trajectory.texts[:2]
    first, refined = trajectory.images
    return json.dumps([
        {"role": "user", "content": trajectory.prompt.text, "need_loss": False},
        {"role": "assistant", "content": [
            {"type": "text", "content": think.text, "need_loss": False},
            {"type": "image", "content": _png(first.pixels), "need_vae": True, "need_vit": True},
            {"type": "text", "content": reflection.text, "need_loss": True},
            {"type": "image", "content": _png(refined.pixels), "need_loss": True},
        ]},
    ])  # fmt: skip


def is_whole(trajectory: Trajectory) -> bool:
    """Return whether a trajectory has two images, and none of its texts is empty or was cut off at the token limit."""
    return trajectory.turns == 2 and all(text.finished and text.text.strip() for text in trajectory.texts)


def write_parquet(folder: Path, rows: Iterable[str]) -> None:
    """Write rows into one parquet file in `folder`. The file appears complete or not at all. Only the rows of one row
    group are in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "part-00000.parquet"
    aside = path.with_suffix(".tmp")
    left = iter(rows)
    with pq.ParquetWriter(aside, SCHEMA, compression="NONE") as writer:
        while group := list(islice(left, ROWS_PER_GROUP)):
            writer.write_table(pa.table([pa.array(group, pa.string())], SCHEMA))
    os.replace(aside, path)


def _png(pixels: Tensor) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()

"""Rows of the IRG schema made by hand, and the parts of a stage around a tiny model."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from irg_rl.config import DataSource, Dropout, Stage
from irg_rl.model.transforms import Resize
from sft.dataset import Rejections, RowSource
from sft.encode import RowEncoder
from sft.packing import RowLayout
from sft.stream import PackStream
from tests.learner.world import TinyWorld

NO_DROPOUT = Dropout(image=0, last_text=0, all_text=0)
SIDE = 16  # pixels: 2 x 2 latent tokens, 2 x 2 patches


def pixels(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG") -> str:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, format)
    return base64.b64encode(out.getvalue()).decode()


def user(text: str) -> dict:
    return {"role": "user", "content": text, "need_loss": False}


def assistant(*parts: dict) -> dict:
    return {"role": "assistant", "content": list(parts)}


def text(content: str, **flags) -> dict:
    return {"type": "text", "content": content, **flags}


def image(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), **flags) -> dict:
    return {"type": "image", "content": encoded(pixels(seed, size)), **flags}


def drawn(seed: int = 0, **more) -> dict:
    return image(seed, need_loss=True, **more)


def seen(seed: int = 0) -> dict:
    return image(seed, need_vae=True, need_vit=True)


def initial_full(number: int, words: str = "red") -> list[dict]:
    """prompt -> think -> image."""
    return [user(f"row{number} {words}"), assistant(text("a red circle"), drawn(number))]


def improving_full(number: int, words: str = "blue") -> list[dict]:
    """prompt, think, image 1 -> reflection -> image 2."""
    parts = text("a blue square", need_loss=False), seen(number), text("the square is missing"), drawn(number + 1000)
    return [user(f"row{number} {words}"), assistant(*parts)]


def drawn_broken(number: int) -> list[dict]:
    """A row like `initial_full` whose image has a good header, and then ends."""
    row = initial_full(number)
    part = row[1]["content"][1]
    data = base64.b64decode(part["content"])
    part["content"] = base64.b64encode(data[: len(data) // 2]).decode()
    return row


def thinking(number: int) -> list[dict]:
    """prompt -> think: nothing to see and nothing to draw."""
    return [user(f"row{number} green"), assistant(text("a green star"))]


def write(folder: Path, rows: list[list[dict] | str], per_group: int = 4, name: str = "part-00000") -> Path:
    """One parquet file; a row may be given as the raw text of its column."""
    folder.mkdir(parents=True, exist_ok=True)
    column = pa.array([row if isinstance(row, str) else json.dumps(row) for row in rows], pa.string())
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({"conversation": column}), path, row_group_size=per_group)
    return path


def encoder(world: TinyWorld, **options) -> RowEncoder:
    return RowEncoder(world.tokenizer, world.vae, Resize(32, 8, 8), Resize(32, 8, 8), **options)


def stage(*sources: DataSource, **settings) -> Stage:
    return Stage(**({"steps": 6, "tokens_per_pack": 200} | settings), sources=list(sources))


def stream(
    world: TinyWorld,
    folder: Path,
    chosen: Stage,
    dropout: Dropout = NO_DROPOUT,
    rejections: Rejections | None = None,
    hold_out: int = 0,
    system: list[int] | None = None,
    **sharing,
) -> PackStream:
    """A stage's stream over the folders of its sources below `folder`."""
    rejections = rejections or Rejections()
    sources = [
        RowSource(folder / source.folder, number, rejections, hold_out) for number, source in enumerate(chosen.sources)
    ]
    layout = RowLayout(dropout, chosen.noise_blocks_by_kind, 1.0, system)
    return PackStream(chosen, sources, encoder(world), layout, world.model.pack_builder, 7, **sharing)

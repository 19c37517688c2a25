"""Folders of images for suites (benchmarks). The command `irg-rl generate --suite` writes such a folder. The commands
`irg-rl suite read` and `irg-rl suite judge` read it. The folder contains:

    OUT/suite.json      the suite, the prompts file and every setting of sampling
    OUT/prompts.jsonl   the prompts that were read
    OUT/texts*.jsonl    the texts of the model, one line per image file, added when the file is finished
    OUT/stops.json      the trajectories that stopped before the last turn
    OUT/turn0/ ...      one tree (folder of images) per turn, each in the official layout
    OUT/final/          one more tree, with the last image of every trajectory

After a trajectory has stopped, its last image is repeated in the trees of the later turns.
"""

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from irg_rl.errors import InputError
from irg_rl.prompts import read_prompts
from irg_rl.suites.base import Picture, Suite
from irg_rl.trajectory import Prompt

SETTINGS, PROMPTS, STOPS, FINAL = "suite.json", "prompts.jsonl", "stops.json", "final"
JPEG_QUALITY = 95
ENDINGS = (".png", ".webp", ".jpg", ".jpeg")


def turn_name(turn: int) -> str:
    return f"turn{turn}"


def tree_names(turns: int) -> list[str]:
    return [*(turn_name(turn) for turn in range(turns)), FINAL]


def encoded(tiles: Sequence[np.ndarray], path: str) -> bytes:
    """Encode one image, or four images as a 2 x 2 grid, and return the content of the image file. The ending of `path`
    chooses the format: png and webp are lossless, jpeg has quality 95 and no chroma subsampling. Raises ValueError for
    any other number of images."""
    if len(tiles) not in (1, 4):
        raise ValueError(f"{len(tiles)} tiles: one image or a 2 x 2 grid of four can be written")
    pixels = tiles[0] if len(tiles) == 1 else np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG"},
        ".webp": {"format": "WEBP", "lossless": True},
        ".jpg": {"format": "JPEG", "quality": JPEG_QUALITY, "subsampling": 0},
    }
    options[".jpeg"] = options[".jpg"]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options[Path(path).suffix])
    return buffer.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, so that other programs never see a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # workers write the same file
    aside.write_bytes(content)
    os.replace(aside, path)


def is_whole(path: Path) -> bool:
    """Return whether an image file exists and was written to its end. For png and jpeg, this is checked by the last
    bytes of the file; for webp, by the file size in the header."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            size = file.seek(0, io.SEEK_END)
            file.seek(max(size - 12, 0))
            tail = file.read()
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return tail[4:8] == b"IEND"
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") == size - 8
    return head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")


def write_picture(out: Path, picture: Picture, per_turn: Sequence[Sequence[np.ndarray]]) -> None:
    """Write the image file `picture` of every turn into the folder of benchmark images `out`. The file of turn k is
    `out/turn<k>/` + `picture.path`. The file of the last turn is also written into `out/final/`.

    `per_turn[k]` has the image of turn k, or four images that are joined to one file of 2 x 2 tiles. If two successive
    turns have the same file, the second file is a hard link to the first. If the file system has no hard links, it is a
    copy.
    """
    names = tree_names(len(per_turn))
    last: tuple[bytes, Path] | None = None
    for name, tiles in zip(names, [*per_turn, per_turn[-1]], strict=True):
        path, content = out / name / picture.path, encoded(tiles, picture.path)
        if last is not None and last[0] == content:
            _repeat(last[1], path)
        else:
            write_whole(path, content)
            last = content, path


def _repeat(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:  # file systems without hard links
        shutil.copyfile(source, aside)
    os.replace(aside, path)


@dataclass(frozen=True)
class Tree:
    """A tree: the folder `path` with the images of one turn. `turn` is the name of the turn, for example `turn0` or
    `final`. `label` is the name of this tree in the table of results."""

    label: str
    turn: str
    path: Path


@dataclass(frozen=True)
class Drawn:
    """A folder of benchmark images, with its settings, its prompts and its trees (one folder of images per turn).
    `pictures` lists the image files that each tree should have. `settings` is empty if another program than `irg-rl
    generate --suite` wrote the folder."""

    path: Path
    trees: list[Tree]
    prompts_file: str
    """The name of the file that the prompts were read from."""
    settings: dict[str, Any]
    prompts: list[Prompt]
    pictures: list[Picture]


def open_drawn(suite: Suite, folder: Path, prompts: Path | None, label: str | None = None) -> Drawn:
    """Read the settings, the prompts and the trees (folders with the images of one turn) of a folder of benchmark
    images, and return them. `folder` is the folder of benchmark images, or a single tree in it.

    `prompts` is the path of a prompts file. If it is None, the prompts are read from the folder of benchmark images.
    `label` is the name of `folder` in the table of results. If it is None, the last part of the path is used.

    Raises InputError if `folder` does not exist, if no prompts are found, or if the images were drawn for another
    suite.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one that `irg-rl generate --suite` wrote, or one of its trees")
    folder = folder.resolve()
    home = next((f for f in (folder, folder.parent) if (f / SETTINGS).is_file()), None)
    settings = read_settings(home) if home else {}
    if settings and settings["suite"] != suite.name:
        raise InputError(f"{home} was drawn for {settings['suite']}, not for {suite.name}")
    if prompts is not None:
        found, file = suite.read_prompts(prompts), prompts.name
    elif home is not None:
        found, file = read_prompts(home / PROMPTS), str(settings.get("prompts_file", PROMPTS))
    else:
        raise InputError(f"{folder} has no {SETTINGS}: give the suite's prompts, --prompts FILE")
    label = label or folder.name
    inside = tree_names(settings["turns"]) if home == folder else []
    trees = [Tree(f"{label}/{name}", name, folder / name) for name in inside if (folder / name).is_dir()]
    if not trees:
        trees = [Tree(label, folder.name if home else "", folder)]
    pictures = suite.pictures(found, settings.get("model_name", "model"))
    return Drawn(folder, trees, file, settings, found, pictures)


def read_settings(home: Path) -> dict[str, Any]:
    """Read the file `suite.json` in the folder `home`, and return its settings. Raises InputError if the file does not
    have the form in which `irg-rl generate --suite` writes it."""
    path = home / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {"suite": str(settings["suite"]), "turns": int(settings["turns"])} | settings
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not what `irg-rl generate --suite` writes ({error!r}): draw anew") from error

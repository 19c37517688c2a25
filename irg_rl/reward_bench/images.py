"""Reads images and their prompts for scorers. They come from one of these:

* a folder of groups, as `irg-rl rollout` and `rl.dump_every` write them;
* a folder of images with `prompts.jsonl` or `metadata.jsonl`: one object per line with `file_name` and `prompt`;
* a folder of images, each with its prompt in a text file of the same name (`a.png`, `a.txt`);
* a parquet file, or a folder of parquet files, with the columns `image` (bytes, or a struct with the field `bytes`) and
  `prompt`.

`prompt` may also be called `text` or `caption`. Optional fields and columns are `id`, `group` and `metadata` (an
object, or its JSON). Images with the same `group` are siblings: one model drew them for one prompt. If no group is
given, images with the same prompt are siblings.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

from irg_rl.errors import InputError
from irg_rl.pictures import UNDECODABLE
from irg_rl.prompts import require_prompt
from irg_rl.records import WORDS, group_folders, load_groups
from irg_rl.task import Pixels
from irg_rl.text_in import parse_json, read_lines, read_text
from irg_rl.trajectory import Prompt

MOST_PIXELS = 2**26
"""Largest number of pixels of an image. It is checked in the header of the file, before a pixel is decoded."""
FORMATS = ("PNG", "JPEG", "WEBP")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LISTS = ("prompts.jsonl", "metadata.jsonl")
PROMPT_NAMES = ("prompt", "text", "caption")


@dataclass(frozen=True)
class BenchImage:
    """An image that scorers are asked about. `where` says where it comes from; it is a row of the table of scores.
    `group` names its siblings: images that one model drew for one prompt, in the same turn. `read` returns the pixels,
    and raises InputError if the image cannot be decoded."""

    where: str
    prompt: Prompt
    group: str
    read: Callable[[], Pixels]
    sample: int = 0
    turn: int = 0

    @property
    def cell(self) -> str:
        """Return the name of the set of images with which this one competes: its siblings in the same turn."""
        return f"{self.group} / turn {self.turn}"


def read_images(path: Path) -> list[BenchImage]:
    """Read all images in a folder or a parquet file (see the module). Raises InputError if there are none, or if an
    image has no prompt. An image that cannot be decoded is found later, when it is read."""
    if path.is_file():
        images = list(_of_parquet([path]))
    elif not path.is_dir():
        raise InputError(f"{path} does not exist: give a folder of images, or a parquet file")
    elif next(path.rglob(WORDS), None) is not None:
        images = list(_of_groups(path))
    elif listed := [path / name for name in LISTS if (path / name).is_file()]:
        images = list(_of_list(listed[0]))
    elif tables := sorted(path.glob("*.parquet")):
        images = list(_of_parquet(tables))
    else:
        images = list(_of_text_files(path))
    if not images:
        raise InputError(f"{path} has no images with prompts: `irg-rl reward score --help` lists the layouts")
    return images


def decode(data: bytes, where: str) -> Pixels:
    """Return the image in `data`, the content of a PNG, JPEG or WebP file, as uint8 [H, W, 3]. A photo is turned as its
    EXIF data says. Raises InputError if it is broken, cut off or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)  # the size is checked right below
            image = PILImage.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise InputError(f"{where}: {image.width} x {image.height} pixels are more than {MOST_PIXELS}")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except InputError:
        raise
    except PILImage.UnidentifiedImageError as error:  # its own message has an address in memory
        raise InputError(f"{where}: the image cannot be decoded: it is no {', '.join(FORMATS)}") from error
    except UNDECODABLE as error:
        raise InputError(f"{where}: the image cannot be decoded: {error}") from error


def decode_file(path: Path) -> Pixels:
    """Return the image in a file, see `decode`. Raises InputError if the file is missing or the image is broken."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decode(data, str(path))


def digest_of(pixels: Pixels) -> str:
    """Return a hash of the pixels of an image. Equal images have equal hashes, whatever file they come from."""
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


def prompt_of_entry(entry: Mapping[str, Any], where: str, name: str = "") -> Prompt:
    """Return the prompt of a line or a row. Its id is the entry's `id`, or else `name`. Raises InputError if the entry
    has no prompt. `where` begins the message."""
    text = next((entry[name] for name in PROMPT_NAMES if isinstance(entry.get(name), str)), None)
    if text is None:
        raise InputError(f"{where}: needs a string `prompt`; there: {', '.join(map(str, entry)) or 'nothing'}")
    metadata = entry.get("metadata")
    if isinstance(metadata, str) and metadata.strip():
        metadata = parse_json(metadata, f"{where}: `metadata`")
    if not isinstance(metadata, dict | None | str):
        raise InputError(f"{where}: `metadata` is {metadata!r:.80}, it must be an object")
    found, known = entry.get("id"), metadata if isinstance(metadata, dict) else {}
    return Prompt(str((name or where) if found is None else found), require_prompt(text, where), known)


def _of_groups(folder: Path) -> Iterator[BenchImage]:
    for place in group_folders(folder):
        inner = "" if place == folder else f"{place.relative_to(folder)}/"
        for group in load_groups(place):
            seen: set[int] = set()
            for trajectory in group.trajectories:
                for image in trajectory.images:
                    if id(image) in seen:
                        continue  # siblings of a fork share it
                    seen.add(id(image))
                    name = f"{inner}{group.id}"
                    where = f"{name}/sample{trajectory.sample}/turn{image.turn}"
                    pixels = image.pixels.numpy().copy()  # keeps the pixels only, not the tensors of the group
                    yield BenchImage(
                        where, group.prompt, name, partial(_given, pixels), trajectory.sample, image.turn
                    )


def _given(pixels: Pixels) -> Pixels:
    return pixels


def _of_list(path: Path) -> Iterator[BenchImage]:
    for where, line in read_lines(path):
        entry = parse_json(line, where)
        if not isinstance(entry, dict) or not isinstance(name := entry.get("file_name"), str):
            raise InputError(f"{where}: needs a string `file_name` and a `prompt`")
        yield _entry_image(entry, where, name, partial(decode_file, path.parent / name))


def _of_text_files(folder: Path) -> Iterator[BenchImage]:
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS):
        told = path.with_suffix(".txt")
        if not told.is_file():
            raise InputError(f"{path} has no prompt: write it into {told.name}, or list all in {LISTS[0]}")
        name = str(path.relative_to(folder))
        yield _entry_image({"prompt": read_text(told).strip()}, name, name, partial(decode_file, path))


def _of_parquet(paths: Sequence[Path]) -> Iterator[BenchImage]:
    import pyarrow.parquet as parquet  # imported here, because it takes a while and most images are in folders
    from pyarrow import ArrowException

    for path in paths:
        try:
            rows = parquet.read_table(path).to_pylist()
        except (ArrowException, OSError) as error:
            raise InputError(f"{path} is not a readable parquet file: {error}") from error
        for number, row in enumerate(rows):
            where = f"{path.name}, row {number}"
            if "image" not in row:
                raise InputError(f"{where}: needs the columns `image` and `prompt`; there: {', '.join(row)}")
            yield _entry_image(row, where, where, partial(decode_cell, row["image"], where))


def decode_cell(cell: Any, where: str) -> Pixels:
    """Return the image in a cell of a parquet table: bytes, or a struct with the field `bytes`. Raises InputError if
    the cell has no image, or if it is broken."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise InputError(f"{where}: the image is {type(data).__name__}, not bytes")
    return decode(data, where)


def _entry_image(entry: Mapping[str, Any], where: str, name: str, read: Callable[[], Pixels]) -> BenchImage:
    prompt = prompt_of_entry(entry, where, name)
    group = entry.get("group")
    return BenchImage(name, prompt, prompt.text if group is None else str(group), read)


def prompt_digest(prompt: Prompt) -> str:
    """Return a hash of everything that a scorer sees of a prompt: its text and its metadata."""
    content = json.dumps([prompt.text, prompt.metadata], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

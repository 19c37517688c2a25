"""The prompts and the images that a data set is built from.

Prompts with the same words are used once. Prompts of excluded files, such as those of a benchmark, are not used. An
image that is missing, cannot be decoded or has one colour only is left out, and the reason is kept.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from irg_rl.config.data import PromptsRecipe
from irg_rl.errors import InputError
from irg_rl.prompts import read_prompts
from irg_rl.suites.files import file_name
from irg_rl.trajectory import Prompt
from rewards.judge import to_png
from sft.rows import BrokenRow, decode_file

FLAT = 8
"""An image whose pixel values all differ by less than this number shows nothing. Some servers send such an image in
place of one that they refuse to draw."""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the data. `what` names it, such as `first image` or `reflection`. `reason` is one of few
    texts, so that it can be counted. `detail` says more."""

    prompt: str
    what: str
    reason: str
    detail: str = ""


class UnusableImage(Exception):
    """Raised if an image file cannot be used. `reason` is one of few texts, and `detail` names the file. `is_whole`
    says that the file is a complete image, which shows nothing. So there is no point in looking again."""

    def __init__(self, reason: str, detail: str, is_whole: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.is_whole = reason, detail, is_whole


@dataclass(frozen=True)
class NumberedPrompt:
    """A prompt and its place in the prompts file, from 0."""

    number: int
    prompt: Prompt


def chosen_prompts(recipe: PromptsRecipe) -> tuple[list[NumberedPrompt], list[LeftOut]]:
    """Return the prompts to use, in the order of the file, and those that are left out. Raises InputError if a file
    cannot be read, or if no prompt is left."""
    excluded = {_key(p.text): Path(path).name for path in recipe.exclude for p in read_prompts(path)}
    used: dict[str, str] = {}
    chosen, left_out = [], []
    for number, prompt in enumerate(read_prompts(recipe.file)):
        key = _key(prompt.text)
        if key in excluded:
            left_out.append(LeftOut(prompt.id, "prompt", "is excluded", excluded[key]))
        elif key in used:
            left_out.append(LeftOut(prompt.id, "prompt", "has the words of another", used[key]))
        else:
            used[key] = prompt.id
            chosen.append(NumberedPrompt(number, prompt))
    if not chosen:
        raise InputError(f"{recipe.file}: all prompts are in the excluded files: nothing is left to build from")
    return chosen, left_out


def _key(text: str) -> str:
    """Return the words of a prompt, without case and punctuation marks. Two prompts with equal words are the same."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


@dataclass(frozen=True)
class FoundImage:
    """An image file with its pixels. The row gets the bytes of the file unchanged."""

    content: bytes
    pixels: np.ndarray

    @cached_property
    def encoded(self) -> str:
        """The file as base64, as rows have it."""
        return base64.b64encode(self.content).decode("ascii")

    @cached_property
    def png(self) -> bytes:
        """The image as the teacher and the judge get it."""
        return to_png(self.pixels)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(str(self.pixels.shape).encode() + self.pixels.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class ImageFolder:
    """A folder with one image per prompt. `name` is the path of an image in it, with place holders {id} and {line}."""

    folder: Path
    name: str

    def path(self, asked: NumberedPrompt) -> Path:
        """Return where the image of a prompt should be. Raises InputError if the id of the prompt cannot be a file
        name, or if `name` has other place holders."""
        prompt_id = asked.prompt.id
        if "{id" in self.name:
            file_name(prompt_id, f"prompt {prompt_id!r}")
        try:
            return self.folder / self.name.format(id=prompt_id, line=asked.number)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise InputError(f"name {self.name!r} of an image: use {{id}} and {{line}} alone ({error!r})") from error

    def require_images(self, asked: Sequence[NumberedPrompt]) -> None:
        """Raise InputError if the folder has an image for none of the prompts. A wrong folder or a wrong `name` is
        found before anything is asked."""
        paths = [self.path(one) for one in asked]
        if not any(path.is_file() for path in paths):
            raise InputError(f"{self.folder} has no image of any prompt; the first would be {paths[0]}")

    def read(self, asked: NumberedPrompt) -> FoundImage:
        """Return the image of a prompt. Raises UnusableImage if it cannot be used."""
        return read_image(self.path(asked))


def read_image(path: Path) -> FoundImage:
    """Read an image file. Raises UnusableImage if it is missing, cannot be decoded or shows nothing."""
    try:
        return usable_image(path.read_bytes(), path.name)
    except FileNotFoundError as error:
        raise UnusableImage("missing file", path.name) from error
    except OSError as error:
        raise UnusableImage("unreadable file", f"{path.name}: {error.strerror or error}") from error


def usable_image(content: bytes, where: str) -> FoundImage:
    """Decode an image file. Raises UnusableImage if it cannot be decoded, or if it has one colour only."""
    try:
        pixels = decode_file(content, where)
    except BrokenRow as error:
        raise UnusableImage("broken image", str(error)) from error
    if int(np.ptp(pixels, axis=(0, 1)).max()) < FLAT:
        raise UnusableImage("one colour only", where, is_whole=True)
    return FoundImage(content, pixels)

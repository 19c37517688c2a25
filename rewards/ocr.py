"""Scores how well an image shows a text that the prompt asks for. The package rapidocr reads the image."""

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, ScorerUnavailable, require_pairs

PACKAGES = ("rapidocr", "onnxruntime")
FIELD = "text"
"""The usual field of a prompt's metadata that has its text."""
TESTED = "open"
"""The text that `OcrScorer.check` writes and reads."""
MOST_SIDE = 960
"""Longest side, in pixels, at which letters are searched. Larger images are made smaller for this, as in PaddleOCR."""
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')


def text_score(wanted: str, found: str) -> float:
    """Return how much of the text `wanted` is in the text `found`, in [0, 1]:

        1 - d / n

    n is the number of characters of `wanted`. d is the smallest edit distance between `wanted` and any part of `found`:
    the number of characters that have to be inserted, removed or replaced. More text in `found` does not count. White
    space and capital letters do not count either. If `wanted` occurs in `found`, the score is 1, as in flow_grpo's OCR
    reward. Raises ValueError if `wanted` has no characters.

    >>> text_score("Open Now", "we are OPEN NOVV"), text_score("open", "")
    (0.8571428571428572, 0.0)
    """
    wanted, found = _letters(wanted), _letters(found)
    if not wanted:
        raise ValueError("no text is wanted")
    return 1 - least_distance(wanted, found) / len(wanted)


def least_distance(wanted: str, found: str) -> int:
    """Return the smallest edit distance between `wanted` and any part of `found` (Sellers, 1980). Cell j of a row has
    the smallest distance between the beginning of `wanted` and a part of `found` that ends at character j. A part may
    begin anywhere, so the first row is 0. The cost is one row of numpy operations per character of `wanted`."""
    letters = np.array(list(found), dtype="U1")
    row = np.zeros(len(found) + 1, dtype=np.int64)
    places = np.arange(len(found) + 1)
    for letter in wanted:
        replaced = row[:-1] + (letters != letter)
        first = np.concatenate([[row[0] + 1], np.minimum(row[1:] + 1, replaced)])
        # a character of `found` that is passed over costs 1 too: row[j] = min over i <= j of first[i] + j - i
        row = np.minimum.accumulate(first - places) + places
    return int(row.min())


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


class OcrScorer:
    """Scores an image by the text that can be read in it, see `text_score`.

    The text that the prompt asks for is the field `field` of its metadata, a text or a list of texts. If there is no
    such field, it is what stands in double quotes in the prompt. Of several texts, the score is the mean. A prompt
    without any text has no score: limit the scorer to other prompts with `when`.
    """

    def __init__(self, name: str = "ocr", field: str = FIELD) -> None:
        self.name, self.last_error, self.field = name, "", field
        for package in PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise ScorerUnavailable(f"the package {package} is not installed: pip install 'irg-rl[ocr]'")

    def check(self) -> None:
        """Read a text that was just written. The package loads the model that reads letters only if there are some.
        Raises ScorerUnavailable if the text is not read."""
        self.require_reads(TESTED, written(TESTED))

    def require_reads(self, text: str, image: Image) -> None:
        """Raise ScorerUnavailable if `text`, which is written in the image, is not read there."""
        found = self.read(image)
        if text_score(text, found) < 1:
            raise ScorerUnavailable(f"rapidocr reads {found!r} where {text!r} is written: install it anew")

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return [self._score(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def read(self, image: Image) -> str:
        """Return the text in an image, line by line, from top to bottom."""
        lines: Sequence[str] | None = self._engine(image[..., ::-1]).txts  # it expects BGR
        return "\n".join(lines or ())

    def _score(self, image: Image, prompt: Prompt) -> Score:
        wanted = wanted_texts(prompt, self.field)
        if not wanted:
            self.last_error = why_no_text(prompt, self.field)
            return None
        found = self.read(image)
        return sum(text_score(text, found) for text in wanted) / len(wanted)

    @cached_property
    def _engine(self) -> Any:
        # an optional package, and importing it takes seconds
        from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]

        # By default it enlarges every image until its shorter side has 736 pixels: 7.7 times for one of 320 x 96. It
        # then splits large letters in two, and takes ten times as long.
        searching = {"Det.limit_type": "max", "Det.limit_side_len": MOST_SIDE}
        engine = "EngineConfig.onnxruntime"
        threads = {f"{engine}.intra_op_num_threads": torch.get_num_threads(), f"{engine}.inter_op_num_threads": 1}
        quiet = {"Global.log_level": "error"}  # it warns of every image without text
        return RapidOCR(params=quiet | searching | threads)


def written(text: str, size: int = 44, width: int = 320, height: int = 96) -> Image:
    """Return a white image of `width` x `height` pixels with a short text in black letters of the font size `size`."""
    picture = PILImage.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(picture).text((width // 20, height // 4), text, fill="black", font=font)
    return np.asarray(picture)


def why_no_text(prompt: Prompt, field: str) -> str | None:
    """Return an error message if the prompt asks for no text, and None if it asks for one."""
    if wanted_texts(prompt, field):
        return None
    return (
        f"prompt {prompt.id!r} asks for no text, neither in its metadata field {field!r} nor in quotes: limit the "
        "scorer to other prompts with `when`"
    )


def wanted_texts(prompt: Prompt, field: str) -> list[str]:
    """Return the texts that an image of this prompt should show. They have at least one character each."""
    given = prompt.metadata.get(field)
    if given is None:
        given = [plain or curly for plain, curly in QUOTED.findall(prompt.text)]
    texts = given if isinstance(given, list | tuple) else [given]
    return [text for text in texts if isinstance(text, str) and _letters(text)]

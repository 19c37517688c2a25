"""Parse one training row in the IRG schema (IRG: Interleaving Reasoning Generation). A row is a conversation of texts
and images, with flags that say what is trained.

A row is a JSON list of turns, in the column `conversation` of the parquet files. The content of a user turn is a
string. The content of an assistant turn is a list of texts and images. A text is trained unless its flag `need_loss` is
false. An image has at least one of three flags. `need_loss`: the model learns to draw it (a flow target). `need_vae`
and `need_vit`: the model sees it, as VAE latents or as ViT patches (a condition).

Of an image only the header is read at first. It says the size, which is enough to arrange rows in packs. The pixels are
decoded by the rank that trains on the row. If they are damaged, the row is broken, too.
"""

import base64
import io
import re
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageOps

from irg_rl.errors import InputError
from irg_rl.model.transforms import from_pil
from irg_rl.pictures import UNDECODABLE
from irg_rl.text_in import parse_json, require_text

MAX_PIXELS = 4096 * 4096
FORMATS = ("PNG", "JPEG", "WEBP")
DEEP_MODES = ("I", "F")
"""First letters of the Pillow modes (pixel formats) that have more than 8 bits per channel. Pillow would clip their
pixels to white when it converts them to RGB."""


class BrokenRow(ValueError):
    """Raised if a row cannot be trained on. The caller then rejects the whole row, never only some of its texts and
    images."""


@dataclass(frozen=True)
class TextPart:
    text: str
    loss: bool


@dataclass(frozen=True)
class ImagePart:
    data: bytes  # the image file
    size: tuple[int, int]  # width and height in the header; a photo that lies on its side has them the other way round
    where: str  # the place in the row, for error messages
    target: bool
    vae: bool
    vit: bool

    @cached_property
    def pixels(self) -> np.ndarray:
        """The pixels, uint8 [H, W, 3]. They are decoded when they are first used. Raises BrokenRow if this is not
        possible."""
        return decode_file(self.data, self.where)


Part = TextPart | ImagePart


def parse_row(conversation: str | bytes | None) -> tuple[Part, ...]:
    """Return the texts and images of a row, in order. Raises BrokenRow if the row cannot be trained on. The message
    names the turn and says what is wrong with it. The pixels of images are not decoded yet (`decode_row`)."""
    if not isinstance(conversation, str | bytes):
        raise BrokenRow(f"conversation is not JSON but {type(conversation).__name__}")
    try:
        turns = parse_json(conversation, "conversation", finite=False)
    except InputError as error:
        raise BrokenRow(str(error)) from error
    if not isinstance(turns, list) or not turns:
        raise BrokenRow("conversation is not a non-empty list of turns")
    parts: list[Part] = []
    for number, turn in enumerate(turns):
        where = f"turn {number}"
        if not isinstance(turn, dict):
            raise BrokenRow(f"{where} is not an object")
        content = turn.get("content")
        if turn.get("role") == "user":
            if not isinstance(content, str):
                raise BrokenRow(f"{where}: a user turn needs a string as content")
            parts.append(TextPart(_text(content, where), loss=_flag(turn, "need_loss", False, where)))
        elif turn.get("role") == "assistant":
            if not isinstance(content, list):
                raise BrokenRow(f"{where}: an assistant turn needs a list of parts as content")
            parts.extend(_parse_part(part, f"{where}, part {k}") for k, part in enumerate(content))
        else:
            raise BrokenRow(f"{where}: role {turn.get('role')!r:.80} is not 'user' or 'assistant'")
    if not any(p.loss if isinstance(p, TextPart) else p.target for p in parts):
        raise BrokenRow("nothing in the row is trained: no text with loss and no target image")
    return tuple(parts)


def decode_row(parts: tuple[Part, ...]) -> None:
    """Decode the pixels of all images of a row. Raises BrokenRow if an image is damaged."""
    for part in parts:
        if isinstance(part, ImagePart):
            part.pixels  # noqa: B018 - the property keeps what it has decoded


def _parse_part(part: dict, where: str) -> Part:
    if not isinstance(part, dict) or not isinstance(part.get("content"), str):
        raise BrokenRow(f"{where}: needs a string as content")
    if part.get("type") == "text":
        return TextPart(_text(part["content"], where), loss=_flag(part, "need_loss", True, where))
    if part.get("type") != "image":
        raise BrokenRow(f"{where}: type {part.get('type')!r:.80} is not 'text' or 'image'")
    target, vae, vit = (_flag(part, name, False, where) for name in ("need_loss", "need_vae", "need_vit"))
    if not (target or vae or vit):
        raise BrokenRow(f"{where}: an image needs one of need_loss, need_vae, need_vit")
    data = image_bytes(part["content"], where)
    return ImagePart(data, open_image(data, where).size, where, target, vae, vit)


def _text(content: str, where: str) -> str:
    try:
        return require_text(content, where)
    except InputError as error:
        raise BrokenRow(str(error)) from error


def _flag(part: dict, name: str, default: bool, where: str) -> bool:
    """Return the flag `name` of a turn, or of a text or image in a turn. Raises BrokenRow if the value is not a JSON
    boolean. For example, the string "false" is refused, because Python would treat it as true."""
    value = part.get(name, default)
    if not isinstance(value, bool):
        raise BrokenRow(f"{where}: {name} is {value!r:.80}, it must be true or false")
    return value


def decode_image(encoded: str, where: str = "image") -> np.ndarray:
    """Decode base64 of PNG, JPEG or WebP bytes to uint8 [H, W, 3]. The base64 may be in a data URL and may have line
    breaks. Raises BrokenRow if this is not base64, or as in `decode_file`."""
    return decode_file(image_bytes(encoded, where), where)


def image_bytes(encoded: str, where: str = "image") -> bytes:
    """Return the bytes of an image file from their base64, which may be in a data URL and may have line breaks. Raises
    BrokenRow if this is not base64."""
    try:
        return base64.b64decode(_SPACE.sub("", _DATA_URL.sub("", encoded)), validate=True)
    except ValueError as error:
        raise BrokenRow(f"{where}: the content is not base64: {error}") from error


def decode_file(data: bytes, where: str = "image") -> np.ndarray:
    """Decode the bytes of a PNG, JPEG or WebP file to uint8 [H, W, 3].

    Transparent pixels are put on white. A photo is turned as its EXIF data says. The size is read from the header of
    the file. So an image with too many pixels is refused before its pixels are decoded and need memory. Raises
    BrokenRow if the image cannot be decoded. A truncated image also counts as broken, because half of it would be grey.
    """
    image = open_image(data, where)
    try:
        return from_pil(ImageOps.exif_transpose(image)).numpy()
    except UNDECODABLE as error:
        raise BrokenRow(f"{where}: the image can't be decoded: {error}") from error


def open_image(data: bytes, where: str = "image") -> Image.Image:
    """Read the header of a PNG, JPEG or WebP file. Raises BrokenRow if the file is of another kind, or has too many
    pixels or too many bits per channel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked right below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UNDECODABLE as error:
        raise BrokenRow(f"{where}: the image can't be opened as {', '.join(FORMATS)}: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BrokenRow(f"{where}: {image.width}x{image.height} pixels are more than {MAX_PIXELS}")
    if image.mode.startswith(DEEP_MODES):
        raise BrokenRow(f"{where}: {image.mode} pixels; store images with 8 bits per channel")
    return image


_DATA_URL = re.compile(r"^\s*data:image/[\w.+-]+;base64,")
_SPACE = re.compile(r"\s+")

"""A trajectory as the page shows it. Evaluations and stored groups of RL are both converted to this form."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PNG_HEADER = struct.Struct(">8s4s4sII")
"""Begin of a PNG file: signature, length of the first block, its name, width and height."""
SMALL_SIDE = 256
"""Images up to this width in pixels are enlarged without smoothing."""


@dataclass(frozen=True)
class ShownImage:
    """An image with its address on the page, and its size in pixels."""

    address: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """Whether the page enlarges the image, and never reduces it."""
        return max(self.width, self.height) <= SMALL_SIDE


@dataclass(frozen=True)
class ShownSegment:
    """One text or one image of a trajectory. `picture` is None for a text. `correct` and `score` are the verdict on an
    image. `scores` maps each scorer to its score; None means that the scorer failed. `shared` is the number of siblings
    that have this same segment."""

    turn: int
    text: str = ""
    picture: ShownImage | None = None
    is_text: bool = True
    finished: bool = True
    correct: bool | None = None
    score: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    shared: int = 1
    statements: list[tuple[str, bool | None]] = field(default_factory=list)
    """The text in parts, if its statements were scored: each part, and whether it is a true statement. None: a part
    outside of all statements."""


@dataclass(frozen=True)
class ShownTrajectory:
    """All segments of a trajectory, in the order of sampling. `label` says which trajectory it is, such as
    `sample 3`."""

    label: str
    segments: list[ShownSegment]
    stopped: bool = False

    @property
    def images(self) -> list[ShownSegment]:
        return [segment for segment in self.segments if not segment.is_text]


def statement_parts(text: str, stored: Any) -> list[tuple[str, bool | None]]:
    """Return the parts of a text whose statements were scored, or [] if they were not. `stored` comes from a file:
    scorer -> begin, end and score of each statement, in the order of the text. The first scorer is shown. A score of at
    least a half counts as true."""
    if not isinstance(stored, dict) or not stored:
        return []
    parts: list[tuple[str, bool | None]] = []
    at = 0
    try:
        for begin, end, score in next(iter(stored.values())):
            parts += [(text[at:begin], None), (text[begin:end], score >= 0.5)]
            at = end
    except (TypeError, ValueError):
        return []
    return [part for part in [*parts, (text[at:], None)] if part[0]] if parts else []


def png_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a PNG file. Raises ValueError if the bytes do not begin as such a file."""
    if len(data) < PNG_HEADER.size:
        raise ValueError("not a PNG file")
    signature, _, kind, width, height = PNG_HEADER.unpack_from(data)
    if signature != b"\x89PNG\r\n\x1a\n" or kind != b"IHDR":
        raise ValueError("not a PNG file")
    return width, height


def outcome(verdicts: Sequence[bool | None]) -> str:
    """Return in words what became of a trajectory. `verdicts` has one entry per image: right, wrong, or None if there
    is no verdict."""
    if not verdicts or verdicts[0] is None or verdicts[-1] is None:
        return "no verdict"
    words = {
        (False, True): "repaired", (True, False): "damaged", (True, True): "stayed right",
        (False, False): "stayed wrong",
    }  # fmt: skip
    return words[verdicts[0], verdicts[-1]]

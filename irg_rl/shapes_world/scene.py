"""The content of a picture in the shapes world: a grid of cells, coloured shapes and a grey background.

Cells are named after the points of the compass (for example "north"), with north at the top. A cell holds at most one
object, so a picture can be edited by repainting single cells.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class WorldConfig:
    grid: int = 3
    """Number of cells per side of a picture."""
    cell: int = 8
    """Number of pixels per side of a cell."""
    jitter: int = 0
    """Largest shift `dx` or `dy` of an object from the middle of its cell when a scene is made at random."""

    @property
    def pixels(self) -> int:
        """Return the number of pixels per side of a picture."""
        return self.grid * self.cell


WORLD = WorldConfig()
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
COLORS = {
    "red": (224, 36, 36),
    "green": (36, 168, 56),
    "blue": (40, 72, 232),
    "yellow": (244, 212, 32),
    "purple": (160, 40, 196),
    "cyan": (32, 204, 220),
}
SIZES = {"small": 6.0, "large": 7.5}  # extent in pixels
BACKGROUNDS = ((212, 212, 208), (136, 136, 140), (60, 62, 66))
CELLS: tuple[str, ...] = (
    "northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast",
)  # fmt: skip
"""Names of the cells, row by row. Each name is one word. The Qwen tokenizer splits a name such as `b2` into two tokens,
and a model then learns the positions of cells much more slowly."""
COLUMN = {cell: index % WORLD.grid for index, cell in enumerate(CELLS)}
ROW = {cell: index // WORLD.grid for index, cell in enumerate(CELLS)}
ORDER = {cell: index for index, cell in enumerate(CELLS)}

Color = tuple[int, int, int]


class Object(NamedTuple):
    """One shape in one cell. `dx` and `dy` are -1, 0 or 1 and shift the object from the middle of its cell. Positive
    values shift it to the right and down. A shift of 1 is one pixel for a small object. For a large object it is only a
    quarter of a pixel, so the object stays inside its cell."""

    shape: str
    color: str
    size: str
    cell: str
    dx: int = 0
    dy: int = 0


class Blob(NamedTuple):
    """A grid cell with unreadable content, which looks like a failed drawing of a weak model. `seed` determines how it
    looks."""

    cell: str
    seed: int


@dataclass(frozen=True)
class Scene:
    background: Color
    objects: tuple[Object, ...] = ()
    blobs: tuple[Blob, ...] = ()

    def taken(self) -> set[str]:
        """Return the names of the grid cells that hold an object or a blob (unreadable content)."""
        return {thing.cell for thing in (*self.objects, *self.blobs)}


def stands(first: str, relation: str, second: str) -> bool:
    """Return whether the grid cell `first` is `relation` (for example "left of") the grid cell `second`. Two cells in
    the same column are neither left nor right of each other. Two cells in the same row are neither above nor below each
    other."""
    match relation:
        case "left of":
            return COLUMN[first] < COLUMN[second]
        case "right of":
            return COLUMN[first] > COLUMN[second]
        case "above":
            return ROW[first] < ROW[second]
        case "below":
            return ROW[first] > ROW[second]
    raise ValueError(f"unknown relation {relation!r}: use one of {', '.join(RELATIONS)}")


RELATIONS = ("left of", "right of", "above", "below")

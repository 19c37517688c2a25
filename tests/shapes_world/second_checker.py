"""A second witness for the verdict: another way to read a picture, and the verdict written anew from docs/world.md.

It shares nothing with `reading.py` and `check.py` but the names and colours of the world. `reading.py` compares a cell
with every picture the world can draw. Here a cell is first unmixed: with background b and palette colour p every pixel
is b + a (p - b) + rest, where a is its least-squares coverage. The colour that leaves the least is the colour of the
cell. The map of coverages is then compared with shapes that are drawn here from their description, by correlation.

Shape letters: H W pixels of a picture, 8 x 8 pixels a cell.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS

SIDE, GRID, FINE = 8, 3, 6  # pixels of a cell, cells of a picture, points per pixel and axis in drawing
EMPTY = 11.0  # mean distance of a cell's pixels from the background, root mean square over channels, in grey levels
ALIKE = 0.82  # correlation with the best shape below which a cell is unreadable
APART = 0.012  # by which the best shape must beat the second
MIXED = 0.25  # share of a cell's energy that the best colour may leave
GRAIN = 10.0  # grey levels of noise that are no colour of their own


class Seen(NamedTuple):
    shape: str
    color: str
    column: int
    row: int


def see(pixels: UInt8[np.ndarray, "H W 3"]) -> list[Seen]:
    """The objects of a picture; cells that cannot be read hold none."""
    picture = pixels.astype(float)
    ground = background(picture)
    found = []
    for number in range(len(CELLS)):
        row, column = divmod(number, GRID)
        cell = picture[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        named = name_cell(cell - ground, ground)
        if named is not None:
            found.append(Seen(*named, column, row))
    return found


def background(picture: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "3"]:
    """The mean of the pixels around the grey that most pixels are nearest to, among those that are grey at all."""
    grey = picture.reshape(-1, 3)
    grey = grey[np.ptp(grey, axis=1) < 36]
    if len(grey) == 0:
        return np.array(BACKGROUNDS[0], float)
    distance = np.linalg.norm(grey[:, None] - np.array(BACKGROUNDS, float), axis=-1)
    most = Counter(distance.argmin(1).tolist()).most_common(1)[0][0]
    near = grey[(distance.argmin(1) == most) & (distance.min(1) < 45)]
    return near.mean(0) if len(near) else np.array(BACKGROUNDS[most], float)


def name_cell(offset: Float[np.ndarray, "8 8 3"], ground: Float[np.ndarray, "3"]) -> tuple[str, str] | None:
    """(shape, colour), or None for a cell that is empty or unreadable. `offset` is the cell minus the background."""
    energy = np.square(offset).sum()
    if energy < EMPTY**2 * offset.size:
        return None
    color, cover, left = unmix(offset, ground)
    if left > MIXED * energy + GRAIN**2 * offset.size:
        return None
    wanted = cover.ravel() - cover.mean()
    alike = templates() @ (wanted / np.linalg.norm(wanted))
    of_shape = {shape: alike[shape == KINDS].max() for shape in SHAPES}
    (best, one), (_, two) = sorted(of_shape.items(), key=lambda pair: -pair[1])[:2]
    return (best, color) if one >= ALIKE and one - two >= APART else None


def unmix(
    offset: Float[np.ndarray, "8 8 3"], ground: Float[np.ndarray, "3"]
) -> tuple[str, Float[np.ndarray, "8 8"], float]:
    """The palette colour that explains the cell best, its coverage of every pixel, and the squares that are left."""
    found = {}
    for color, value in COLORS.items():
        axis = np.array(value, float) - ground
        cover = np.clip(offset @ axis / (axis @ axis), 0, 1)
        found[color] = cover, float(np.square(offset - cover[..., None] * axis).sum())
    color = min(found, key=lambda name: found[name][1])
    return color, *found[color]


SHAPES = {
    "circle": lambda x, y: np.hypot(x, y) <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 1,
    "triangle": lambda x, y: (abs(y) <= 1) & (2 * abs(x) <= y + 1),  # stands on its base
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.775) <= 0.225,
    "bar": lambda x, y: (abs(x) <= 1) & (abs(y) <= 0.36),  # lies
}
HALVES, SHIFTS = (3.0, 3.4, 3.75), (-0.6, 0.0, 0.6)  # pixels
SOFT = np.array([0.0, 0.25])  # share that each neighbour along an axis gets: sharp edges and soft ones
KINDS = np.repeat(list(SHAPES), len(HALVES) * len(SHIFTS) ** 2 * len(SOFT))


@cache
def templates() -> Float[np.ndarray, "T 64"]:
    """Every shape in three sizes and nine places, sharp and soft; centred, of length 1."""
    axis = (np.arange(SIDE * FINE) + 0.5) / FINE - SIDE / 2
    near = np.eye(SIDE, k=1) + np.eye(SIDE, k=-1)
    rows = []
    for shape, half, dx, dy, soft in product(SHAPES.values(), HALVES, SHIFTS, SHIFTS, SOFT):
        inside = shape(((axis - dx) / half)[None, :], ((axis - dy) / half)[:, None]).astype(float)
        mix = (1 - 2 * soft) * np.eye(SIDE) + soft * near
        cover = mix @ inside.reshape(SIDE, FINE, SIDE, FINE).mean((1, 3)) @ mix
        rows.append((cover - cover.mean()).ravel())
    return np.stack([row / np.linalg.norm(row) for row in rows])


def is_right(objects: Sequence[Seen], metadata: dict) -> bool:
    """The rule of docs/world.md: enough of everything that is included, not too many of what is excluded, and every
    relation true of every pair of the things that it names."""

    def fitting(entry: dict) -> list[Seen]:
        return [o for o in objects if o.shape == entry["class"] and entry.get("color", o.color) == o.color]

    includes = metadata["include"]
    enough = all(len(fitting(entry)) >= entry["count"] for entry in includes)
    few = all(len(fitting(entry)) < entry["count"] for entry in metadata.get("exclude", []))
    related = [(entry, *entry["position"]) for entry in includes if "position" in entry]
    return enough and few and all(
        HOLDS[name](one, other) for entry, name, index in related for one in fitting(entry)
        for other in fitting(includes[index])
    )  # fmt: skip


HOLDS = {
    "left of": lambda one, other: one.column < other.column,
    "right of": lambda one, other: one.column > other.column,
    "above": lambda one, other: one.row < other.row,
    "below": lambda one, other: one.row > other.row,
}


def verdict(pixels: UInt8[np.ndarray, "H W 3"], metadata: dict) -> bool:
    """Right or wrong."""
    return is_right(see(pixels), metadata)

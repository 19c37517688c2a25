"""Finds the objects in a picture from its pixels. Every cell of the picture is compared with every shape, size, shift
and colour of the shapes world.

Let x be the pixels of a cell, and b the background colour. A candidate shape has the colour p and the coverage m (the
share of each pixel that the shape covers). With d = x - b, the residual of the candidate is

    r = sum over pixels and channels of (x - b - m (p - b))^2
      = |d|^2 - 2 sum_c (p_c - b_c)(m . d_c) + |p - b|^2 |m|^2

So one matrix product is enough for all candidates. Each shape has a sharp and a blurred coverage, because an
autoencoder blurs pictures. A cell is empty if it hardly differs from the background. A cell is unclear if the best
candidate leaves a large residual, or if a candidate of another shape or colour is almost as good.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from irg_rl.shapes_world.render import mask
from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, WORLD, Color, Object, Scene

FLAT_RMS = 14.0  # grey levels; noise of sigma 8 is far below this, a small bar is far above
RESIDUAL_SHARE = 0.2  # the best candidate may leave this share of the cell's energy unexplained,
COLOR_RADIUS = 64.0  # but at most this colour distance over the area of the object;
GRAIN_RMS = 8.0  # this much grain is allowed in addition, in grey levels
MARGIN_SHARE = 0.02  # the best shape and colour must beat the second by this share of the energy
GREY_RADIUS = 28  # a pixel within this many grey levels of a background counts as background
CHUNK = 512  # number of images handled at once, to limit memory


@dataclass(frozen=True)
class PictureReading:
    """What the checker sees in a picture: the objects, the grid cells that the checker cannot read, and the background
    colour. The objects are sorted row by row, and from left to right in each row."""

    objects: tuple[Object, ...]
    unclear: tuple[str, ...] = ()
    background: Color = BACKGROUNDS[0]

    def empty(self) -> list[str]:
        """Return the names of the grid cells that are empty."""
        taken = {seen.cell for seen in self.objects} | set(self.unclear)
        return [cell for cell in CELLS if cell not in taken]


def scene_reading(scene: Scene) -> PictureReading:
    """Return what a checker without errors would find in a picture of this scene: its objects, its unreadable cells and
    its background colour. The scene itself is used, no picture is drawn."""
    objects = tuple(sorted(scene.objects, key=lambda seen: CELLS.index(seen.cell)))
    unclear = {blob.cell for blob in scene.blobs}
    return PictureReading(objects, tuple(cell for cell in CELLS if cell in unclear), scene.background)


def read(pixels: np.ndarray) -> PictureReading:
    """Return the objects, the unreadable cells and the background colour that are found in the pixels of one picture,
    uint8 [24, 24, 3]. Raises ValueError if the array has another shape or type."""
    return read_batch(pixels[None])[0]


def read_batch(images: np.ndarray) -> list[PictureReading]:
    """Return one reading per picture: the objects, the unreadable cells and the background colour found in its pixels.
    `images` has N pictures, uint8 [N, 24, 24, 3]. Raises ValueError if the array has another shape or type."""
    side = WORLD.pixels
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != np.uint8:
        raise ValueError(f"the checker reads uint8 [N, {side}, {side}, 3] pictures, not {images.dtype} {images.shape}")
    readings = []
    for start in range(0, len(images), CHUNK):
        readings += _read_chunk(images[start : start + CHUNK])
    return readings


@cache
def _templates() -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Return (coverages, variants). A variant is a shape with one size and one shift, sharp or blurred. A coverage says
    how much of each pixel of a cell a variant of a shape covers. The coverages are float32 [shapes * variants, pixels
    of a cell], with all variants of one shape next to each other. `variants` lists (size, dx, dy) for all sharp
    variants of a shape, followed by the same list for the blurred variants."""
    shifts = (-1, 0, 1)
    places: list[tuple[str, int, int]] = [(size, dx, dy) for size, dx, dy in product(SIZES, shifts, shifts)]
    rows = []
    for shape in SHAPES:
        sharp = [mask(shape, *place) for place in places]
        rows += [coverage.ravel() for coverage in (*sharp, *map(_blur, sharp))]
    return np.stack(rows), places * 2


def _blur(coverage: np.ndarray) -> np.ndarray:
    """Return the coverage of a cell after a 3x3 binomial blur. Coverage that spreads beyond the edge of the cell is
    lost."""
    padded = np.pad(coverage, 1)
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]


def _backgrounds(images: np.ndarray) -> np.ndarray:
    """Return the background colour of each image, as whole numbers in float32 [N, 3]. First choose from BACKGROUNDS the
    grey to which the most pixels are close. The background colour is the median of the pixels close to this grey."""
    flat = images.reshape(len(images), -1, 3).astype(np.int16)
    greys = np.array(BACKGROUNDS, np.int16)
    near = np.stack([(abs(flat - grey) <= GREY_RADIUS).all(-1) for grey in greys], 1)  # [N, greys, pixels]
    best = near.sum(-1).argmax(1)
    found = np.empty((len(images), 3), np.float32)
    for index, grey in enumerate(best):
        pixels = flat[index][near[index, grey]]
        found[index] = np.rint(np.median(pixels, axis=0)) if len(pixels) else greys[grey]
    return found


def _read_chunk(images: np.ndarray) -> list[PictureReading]:
    count, grid, side = len(images), WORLD.grid, WORLD.cell
    grounds = _backgrounds(images)
    cells = images.reshape(count, grid, side, grid, side, 3).transpose(0, 1, 3, 5, 2, 4)
    offset = cells.reshape(count, grid * grid, 3, side * side) - grounds[:, None, :, None]
    energy = np.einsum("ncxp,ncxp->nc", offset, offset)
    picture, place = np.nonzero(energy > FLAT_RMS**2 * 3 * side * side)
    chosen, clear = _match(offset[picture, place], energy[picture, place], grounds[picture])
    objects: list[list[Object]] = [[] for _ in range(count)]
    unclear: list[list[str]] = [[] for _ in range(count)]
    colors, variants = tuple(COLORS), _templates()[1]
    for image, cell, best, is_clear in zip(picture.tolist(), place.tolist(), chosen.tolist(), clear.tolist()):
        if not is_clear:
            unclear[image].append(CELLS[cell])
            continue
        color, template = divmod(best, len(SHAPES) * len(variants))
        shape, variant = divmod(template, len(variants))
        size, dx, dy = variants[variant]
        objects[image].append(Object(SHAPES[shape], colors[color], size, CELLS[cell], dx, dy))
    greys = [(int(red), int(green), int(blue)) for red, green, blue in grounds.tolist()]
    return [PictureReading(tuple(seen), tuple(blurry), grey) for seen, blurry, grey in zip(objects, unclear, greys)]


def _match(offset: np.ndarray, energy: np.ndarray, grounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare n cells with all pairs (colour, template). A template is a shape with one size and one shift, sharp or
    blurred. Return two arrays with one value per cell: the index of the best pair, and whether the cell is clear.
    `offset` is float32 [n, 3, pixels], the pixels of each cell minus its background colour. `energy` is the sum of the
    squares of `offset` in each cell. `grounds` has the background colours."""
    coverages = _templates()[0]
    palette = np.array(list(COLORS.values()), np.float32)[None] - grounds[:, None]  # [n, colours, 3]
    projections = offset @ coverages.T  # [n, 3, templates]
    residual = (palette * palette).sum(-1)[..., None] * (coverages * coverages).sum(-1)
    residual -= 2 * (palette @ projections)
    residual += energy[:, None, None]  # [n, colours, templates]
    best = residual.reshape(len(offset), coverages.shape[0] * len(COLORS)).argmin(-1)
    kinds = residual.reshape(len(offset), len(COLORS) * len(SHAPES), len(_templates()[1])).min(-1)
    first, second = np.partition(kinds, 1, axis=-1)[:, :2].T
    area = (coverages * coverages).sum(-1)[best % len(coverages)]
    allowed = np.minimum(RESIDUAL_SHARE * energy, COLOR_RADIUS**2 * area) + GRAIN_RMS**2 * 3 * WORLD.cell**2
    return best, (first <= allowed) & (second - first >= MARGIN_SHARE * energy)

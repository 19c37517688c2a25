"""Renders scenes as pixels. Edges are smoothed by supersampling. Each cell is painted independently of the other
cells."""

import random
from functools import cache, lru_cache

import numpy as np

from irg_rl.shapes_world.scene import COLORS, COLUMN, ROW, SHAPES, SIZES, WORLD, Blob, Color, Object, Scene

SUPERSAMPLING = 8


def cell_slices(cell: str) -> tuple[slice, slice]:
    """Return (slice of pixel rows, slice of pixel columns) that cut the cell named `cell` out of a picture."""
    top, left = ROW[cell] * WORLD.cell, COLUMN[cell] * WORLD.cell
    return slice(top, top + WORLD.cell), slice(left, left + WORLD.cell)


@cache
def mask(shape: str, size: str, dx: int, dy: int) -> np.ndarray:
    """Return how a shape covers a cell of a picture, as float32 [8, 8]. Each value belongs to one pixel of the cell. It
    is the share of the pixel that the shape covers, in [0, 1]. `size` names the size of the shape. `dx` and `dy` shift
    the shape from the middle of the cell to the right and down, as far as the cell has room. Raises ValueError if the
    shape is unknown."""
    half = SIZES[size] / 2
    room = WORLD.cell / 2 - half
    fine = (np.arange(WORLD.cell * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - WORLD.cell / 2
    x = ((fine - np.clip(dx, -room, room)) / half)[None, :]
    y = ((fine - np.clip(dy, -room, room)) / half)[:, None]
    box = (abs(x) <= 1) & (abs(y) <= 1)
    radius = np.hypot(x, y)
    match shape:
        case "circle":
            inside = radius <= 1
        case "square":
            inside = box
        case "triangle":
            inside = box & (abs(x) <= (y + 1) / 2)
        case "cross":
            inside = box & ((abs(x) <= 0.31) | (abs(y) <= 0.31))
        case "ring":
            inside = (radius <= 1) & (radius >= 0.55)
        case "bar":
            inside = box & (abs(y) <= 0.36)
        case _:
            raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    blocks = inside.reshape(WORLD.cell, SUPERSAMPLING, WORLD.cell, SUPERSAMPLING)
    coverage = blocks.mean(axis=(1, 3), dtype=np.float32)
    coverage.setflags(write=False)
    return coverage


@lru_cache(maxsize=8192)
def _painted(background: Color, shape: str, color: str, size: str, dx: int, dy: int) -> np.ndarray:
    coverage = mask(shape, size, dx, dy)[..., None]
    ground = np.array(background, np.float32)
    pixels = np.rint(ground + coverage * (np.array(COLORS[color], np.float32) - ground)).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


def render_cell(background: Color, content: Object | Blob | None) -> np.ndarray:
    """Return the pixels of one grid cell, uint8 [8, 8, 3]. `content` is an object, or a blob (content that the checker
    cannot read). If it is None, the cell is empty."""
    if content is None:
        return np.full((WORLD.cell, WORLD.cell, 3), background, np.uint8)
    if isinstance(content, Blob):
        return _smear(background, content.seed)
    return _painted(background, content.shape, content.color, content.size, content.dx, content.dy)


def render(scene: Scene) -> np.ndarray:
    """Return the pixels of a scene, uint8 [24, 24, 3]."""
    pixels = np.empty((WORLD.pixels, WORLD.pixels, 3), np.uint8)
    pixels[:] = scene.background
    for content in (*scene.objects, *scene.blobs):
        pixels[cell_slices(content.cell)] = render_cell(scene.background, content)
    return pixels


@lru_cache(maxsize=8192)
def _smear(background: Color, seed: int) -> np.ndarray:
    """Return the pixels of a cell with a typical failure of a weak model: an object that is half drawn, has two colours
    or two shapes, or is washed out."""
    rng = random.Random(seed)
    first, second = (_random_mask(rng) for _ in range(2))
    one, two = (np.array(COLORS[color], np.float32) for color in rng.sample(list(COLORS), 2))
    ground = np.array(background, np.float32)
    cut = _ramp(rng)[..., None]
    first, second = first[..., None], second[..., None]
    match rng.randrange(4):
        case 0:  # half-drawn
            coverage, color = first * cut, one
        case 1:  # two colours
            coverage, color = first, cut * one + (1 - cut) * two
        case 2:  # two shapes, two colours
            coverage, color = np.maximum(first, second), np.where(first > second, one, two)
        case _:  # washed out, with a grain
            grain = np.array([rng.uniform(-1, 1) for _ in range(first.size)], np.float32).reshape(first.shape)
            coverage, color = np.clip(0.5 * first + 0.35 * second + 0.3 * grain, 0, 1), 0.6 * one + 0.4 * two
    return np.rint(ground + coverage * (color - ground)).astype(np.uint8)


def _random_mask(rng: random.Random) -> np.ndarray:
    return mask(rng.choice(SHAPES), rng.choice(tuple(SIZES)), rng.randint(-1, 1), rng.randint(-1, 1))


def _ramp(rng: random.Random) -> np.ndarray:
    """Return weights, float32 [8, 8], that rise smoothly from 0 on one side of a cell to 1 on the opposite side, in a
    random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.arange(WORLD.cell, dtype=np.float32) - (WORLD.cell - 1) / 2
    distance = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
    return (1 / (1 + np.exp(-2.5 * (distance - rng.uniform(-0.7, 0.7))))).astype(np.float32)

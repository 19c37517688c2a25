"""Random demands, scenes and readings for the property tests."""

import random

import numpy as np
from hypothesis import strategies as st

from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, WORLD, Object, Scene
from irg_rl.shapes_world.settings import ShapesSettings
from irg_rl.shapes_world.task import ShapesWorld

TASK = ShapesWorld(ShapesSettings(), 0, (24, 24))
"""The shapes world as a task, with its own defaults."""


PROMPTS = make_prompts(600, "train", seed=11)

rngs = st.integers(0, 2**32).map(random.Random)
demands = st.sampled_from(PROMPTS).map(lambda prompt: prompt.metadata)


@st.composite
def boards(draw, most: int = 16) -> tuple[tuple[Object, ...], tuple[str, ...]]:
    """Any objects in any cells, and any of the other cells unclear."""
    cells = draw(st.lists(st.sampled_from(CELLS), unique=True, max_size=most))
    objects = tuple(
        Object(
            draw(st.sampled_from(SHAPES)),
            draw(st.sampled_from(tuple(COLORS))),
            draw(st.sampled_from(tuple(SIZES))),
            cell,
            draw(st.integers(-1, 1)),
            draw(st.integers(-1, 1)),
        )
        for cell in sorted(cells, key=CELLS.index)
    )
    rest = [cell for cell in CELLS if cell not in cells]
    unclear = tuple(cell for cell in rest if draw(st.integers(0, 4)) == 0)
    return objects, unclear


readings = boards().map(lambda board: PictureReading(*board))
scenes = st.builds(lambda board, grey: Scene(grey, board[0]), boards(most=9), st.sampled_from(BACKGROUNDS))


def metadata(*include: dict, exclude: tuple[dict, ...] = ()) -> dict:
    """GenEval metadata written by hand."""
    return {"tag": "scene", "include": list(include), "exclude": list(exclude), "prompt": "by hand"}


def seen(text: str) -> PictureReading:
    """A reading from words: `seen("red circle northwest, blue square center")`."""
    parts = [part.split() for part in text.split(",") if part.strip()]
    return PictureReading(tuple(Object(shape, color, "large", cell) for color, shape, cell in parts))


def random_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes with one to seven objects of any kind."""
    rng = random.Random(seed)

    def thing(cell: str) -> Object:
        look = rng.choice(SHAPES), rng.choice(tuple(COLORS)), rng.choice(tuple(SIZES))
        return Object(*look, cell, rng.randint(-1, 1), rng.randint(-1, 1))

    return [
        Scene(
            rng.choice(BACKGROUNDS),
            tuple(thing(cell) for cell in sorted(rng.sample(CELLS, rng.randint(1, 7)), key=CELLS.index)),
        )
        for _ in range(n)
    ]


def changed_cells(before: np.ndarray, after: np.ndarray) -> set[str]:
    """Cells in which two pictures differ."""
    differs = (before != after).any(-1).reshape(WORLD.grid, WORLD.cell, WORLD.grid, WORLD.cell).any((1, 3))
    return {cell for cell, is_different in zip(CELLS, differs.ravel()) if is_different}

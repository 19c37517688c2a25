"""Rows for the base model, before IRGL: drawing, reading and editing with every place said.

IRGL texts never say where things stand, so each of its pictures leaves much open and teaches the meaning of words
slowly. The base model learns the words first, from rows in which the picture follows from the text: `draw` a list of
objects with their cells, `read` such a list from a picture, `edit` one picture into another by one sentence.
"""

import random

import numpy as np

from irg_rl.shapes_world.constraints import Thing
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS, ORDER, SHAPES, Object, Scene
from irg_rl.shapes_world.scenes import random_object

DRAWING, READING, EDITING = "base_drawing", "base_reading", "base_editing"
BASE_MODES = (DRAWING, READING, EDITING)
QUESTION = "what is at each place ?"
MAX_OBJECTS = 7


def placed_scene(rng: random.Random) -> Scene:
    """One to seven objects anywhere."""
    cells = rng.sample(CELLS, rng.randint(1, MAX_OBJECTS))
    objects = tuple(random_object(Thing(rng.choice(SHAPES)), cell, rng) for cell in cells)
    return Scene(rng.choice(BACKGROUNDS), objects)


def placed_text(objects: tuple[Object, ...] | list[Object]) -> str:
    """The objects with their cells, in the order given."""
    return " , ".join(f"{seen.color} {seen.shape} at {seen.cell}" for seen in objects) + " ."


def edited(scene: Scene, rng: random.Random) -> tuple[str, Scene]:
    """One change in the words of reflections, and the scene after it."""
    board = {seen.cell: seen for seen in scene.objects}
    free = [cell for cell in CELLS if cell not in board]
    kind = rng.choice(("add", "remove", "recolor", "reshape", "move"))
    if kind == "add":
        new = random_object(Thing(rng.choice(SHAPES)), rng.choice(free), rng)
        text = f"add {new.color} {new.shape} at {new.cell} ."
        board[new.cell] = new
    else:
        old = rng.choice(scene.objects)
        del board[old.cell]
        if kind == "remove":
            text = f"remove {old.color} {old.shape} at {old.cell} ."
        elif kind == "recolor":
            color = rng.choice([c for c in COLORS if c != old.color])
            text = f"make {old.shape} at {old.cell} {color} ."
            board[old.cell] = old._replace(color=color)
        elif kind == "reshape":
            shape = rng.choice([s for s in SHAPES if s != old.shape])
            text = f"make {old.color} {old.shape} at {old.cell} {shape} ."
            board[old.cell] = old._replace(shape=shape)
        else:
            cell = rng.choice(free)
            text = f"move {old.color} {old.shape} from {old.cell} to {cell} ."
            board[cell] = old._replace(cell=cell)
    return text, Scene(scene.background, tuple(board.values()))


def base_example(mode: str, rng: random.Random) -> tuple[str, np.ndarray, np.ndarray | None, str]:
    """(text, picture, edited picture, answer) of one row; ValueError for an unknown mode."""
    scene = placed_scene(rng)
    if mode == DRAWING:
        return placed_text(rng.sample(scene.objects, len(scene.objects))), render(scene), None, ""
    if mode == READING:
        in_order = sorted(scene.objects, key=lambda seen: ORDER[seen.cell])
        return QUESTION, render(scene), None, placed_text(in_order)
    if mode == EDITING:
        text, after = edited(scene, rng)
        return text, render(scene), render(after), ""
    raise ValueError(f"unknown base mode {mode!r}: use one of {', '.join(BASE_MODES)}")

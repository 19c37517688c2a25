"""Rows for the base model, before IRGL: drawing, reading and editing, with all places in the text.

IRGL texts do not name places, so many pictures fit a text, and the meaning of words is learned slowly. The base model
learns the words first, from rows in which the text determines the picture:

- `draw`: put objects into named cells.
- `read`: say where things are, whether their number is right, whether a relation holds, and what is in each cell.
- `edit`: change one picture into another.

Drawing and editing use the two verbs of reflections, put and remove. Answers of `read` have the words of reflections,
but cannot be guessed: half of the things asked for are absent, the numbers of many are wrong, and half of the relations
fail.
"""

import random
from collections import Counter

import numpy as np

from irg_rl.shapes_world.check import as_thing
from irg_rl.shapes_world.constraints import (
    NUMBERS,
    Thing,
    exactly,
    in_order,
    sight,
    sight_of_relation,
    sight_of_room,
)
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import BACKGROUNDS, CELLS, COLORS, RELATIONS, SHAPES, Object, Scene, stands
from irg_rl.shapes_world.scenes import random_object

DRAWING, READING, EDITING = "base_drawing", "base_reading", "base_editing"
BASE_MODES = (DRAWING, READING, EDITING)
QUESTION = "what is at each place ?"
MAX_OBJECTS = 7
MAX_EDITS = 4
COUNTED = 4
"""Number of things that one row asks about."""
RELATED = 2
"""Number of relations that one row asks about."""
AGAIN = 0.2
"""Share of objects of a kind that is already in the picture, in `read` rows. So there are several objects to count."""


def placed_scene(rng: random.Random, again: float = 0.0) -> Scene:
    """One to seven objects anywhere. With probability `again`, an object has a kind that is already there."""
    objects: list[Object] = []
    for cell in rng.sample(CELLS, rng.randint(1, MAX_OBJECTS)):
        kind = as_thing(rng.choice(objects)) if objects and rng.random() < again else Thing(rng.choice(SHAPES))
        objects.append(random_object(kind, cell, rng))
    return Scene(rng.choice(BACKGROUNDS), tuple(objects))


def placed_text(objects: tuple[Object, ...] | list[Object]) -> str:
    """The objects with their cells, in the order given."""
    return " , ".join(f"{seen.color} {seen.shape} at {seen.cell}" for seen in objects) + " ."


def counted(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Question and answer: the places of four things, and whether their numbers are right. Some things are absent. Some
    have no colour."""
    present = [as_thing(seen) for seen in scene.objects]
    asked: dict[Thing, int] = {}
    while len(asked) < COUNTED:
        thing = rng.choice(present) if rng.random() < 0.5 else Thing(rng.choice(SHAPES), rng.choice(tuple(COLORS)))
        thing = thing if rng.random() < 0.8 else Thing(thing.shape)
        there = sum(thing.fits(seen) for seen in scene.objects)
        asked[thing] = max(1, there + rng.choice((-1, 0, 0, 1))) if there else rng.choice((1, 1, 2, 3))
    named = [f"{NUMBERS[count]} {thing}" for thing, count in asked.items()]
    return f"see {' , '.join(named)} ?", sight(exactly(list(asked.items())), scene.objects)


def related(scene: Scene, rng: random.Random) -> list[str]:
    """Alternating questions and answers: whether a relation between two objects holds (in half of the cases it does),
    and which free cells are in a relation to an object. Empty if there are no two objects that are the only ones of
    their kind."""
    kinds = Counter(map(as_thing, scene.objects))
    alone = [seen for seen in scene.objects if kinds[as_thing(seen)] == 1]
    if len(alone) < 2:
        return []
    texts = []
    for _ in range(RELATED):
        one, other = rng.sample(alone, 2)
        told = rng.random() < 0.5
        name = rng.choice([name for name in RELATIONS if stands(one.cell, name, other.cell) == told])
        first, second = as_thing(one), as_thing(other)
        texts += [f"is {first} {name} {second} ?", sight_of_relation(first, name, second, scene.objects)]
    other, name = rng.choice(alone), rng.choice(RELATIONS)
    free = [cell for cell in CELLS if cell not in scene.taken() and stands(cell, name, other.cell)]
    bound = (name, as_thing(other), (other.cell,))
    return [*texts, f"free {name} {as_thing(other)} ?", sight_of_room([bound], free)]


def put_text(seen: Object) -> str:
    return f"put {seen.color} {seen.shape} at {seen.cell} ."


def edited(scene: Scene, rng: random.Random) -> tuple[str, Scene]:
    """One to four changes in the words of reflections, and the scene after them. Objects are added, removed, moved, or
    replaced by others of the same size. No cell is named twice."""
    board = {seen.cell: seen for seen in scene.objects}
    cells = rng.sample(CELLS, len(CELLS))
    said = []
    for _ in range(rng.randint(1, MAX_EDITS)):  # each takes at most two cells, and there are at least 2 * MAX_EDITS
        cell = cells.pop()
        old = board.pop(cell, None)
        kind = "add" if old is None else rng.choice(("remove", "replace", "move"))
        goal = next((free for free in cells if free not in board), None)
        if old is not None and kind in ("remove", "move"):
            said.append(f"remove {old.color} {old.shape} at {cell} .")
        if kind in ("add", "replace"):
            new = random_object(Thing(rng.choice(SHAPES)), cell, rng)
            while old is not None and (new.shape, new.color) == (old.shape, old.color):
                new = random_object(Thing(rng.choice(SHAPES)), cell, rng)
            board[cell] = new if old is None else new._replace(size=old.size)
            said.append(put_text(board[cell]))
        elif old is not None and kind == "move" and goal is not None:
            cells.remove(goal)
            board[goal] = old._replace(cell=goal)
            said.append(put_text(board[goal]))
    return " ".join(said), Scene(scene.background, tuple(board.values()))


def base_example(mode: str, rng: random.Random) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """(texts, picture, edited picture) of one row. Texts of `read` alternate questions and answers. ValueError for an
    unknown mode."""
    scene = placed_scene(rng, AGAIN if mode == READING else 0.0)
    if mode == DRAWING:
        return [" ".join(map(put_text, rng.sample(scene.objects, len(scene.objects))))], render(scene), None
    if mode == READING:
        listed = placed_text(in_order(scene.objects))
        return [*counted(scene, rng), *related(scene, rng), QUESTION, listed], render(scene), None
    if mode == EDITING:
        text, after = edited(scene, rng)
        return [text], render(scene), render(after)
    raise ValueError(f"unknown base mode {mode!r}: use one of {', '.join(BASE_MODES)}")

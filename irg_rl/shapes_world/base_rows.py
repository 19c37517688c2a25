"""Makes training rows for the base model: drawing, reading and editing pictures. The texts name the cells of objects.

The base model is trained on these rows first. Afterwards it is trained on the rows of IRGL, the six learning modes of
Interleaving Reasoning Generation. The prompts and think texts of IRGL do not say where an object is. So many different
pictures fit the same text, and a model learns the meaning of words slowly. In the rows of this module, the text
determines the picture. There are three modes:

- `base_drawing`: the text says which objects to put into which cells, and the model draws the picture.
- `base_reading`: the model answers questions about a picture: where objects are, whether their number is right, whether
  a relation such as "left of" holds, and what is in each cell.
- `base_editing`: the text says how to change one picture into another.

The texts for drawing and editing use only the verbs "put" and "remove". A reflection, the text in which a model names
the errors of its picture, uses the same two verbs. The answers in base_reading use the words of reflections, too. A
model cannot guess these answers: half of the objects asked for are absent, many of the numbers are wrong, and half of
the relations do not hold.
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
"""Number of kinds of object (a shape, with or without a colour) that one row of base_reading asks about."""
RELATED = 2
"""Number of questions in one row of base_reading that ask whether a relation, such as "left of", holds."""
AGAIN = 0.2
"""Probability, in rows of base_reading, that a new object repeats the shape and colour of an object already in the
picture. So some pictures have several equal objects that can be counted."""


def placed_scene(rng: random.Random, again: float = 0.0) -> Scene:
    """Return a random scene with one to seven objects, each in a random cell. With probability `again`, a new object
    gets the shape and colour of an object that is already in the scene."""
    objects: list[Object] = []
    for cell in rng.sample(CELLS, rng.randint(1, MAX_OBJECTS)):
        kind = as_thing(rng.choice(objects)) if objects and rng.random() < again else Thing(rng.choice(SHAPES))
        objects.append(random_object(kind, cell, rng))
    return Scene(rng.choice(BACKGROUNDS), tuple(objects))


def placed_text(objects: tuple[Object, ...] | list[Object]) -> str:
    """Return a text that lists the objects with their cells, in the given order. An example is "red circle at north ,
    blue bar at east ."."""
    return " , ".join(f"{seen.color} {seen.shape} at {seen.cell}" for seen in objects) + " ."


def counted(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Return (question, answer) about four kinds of object. The question names each kind with a number, for example
    "two red ring". For each kind, the answer gives the cells and the number of its objects in the scene. It also says
    if this number is too small or too large. Some of the kinds do not occur in the scene. Some are named without a
    colour."""
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
    """Return a list of texts in which questions and answers alternate. The first two questions ask whether a relation
    between two objects holds. The right answer is yes in about half of the cases. The last question asks which empty
    cells have a given relation to an object, for example, which empty cells are left of it. All questions are about
    unique objects: no other object has the same shape and colour. The list is empty if the scene has fewer than two
    unique objects."""
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
    """Return (text, new scene). The text states one to four changes of the scene with the verbs "put" and "remove", and
    the new scene has these changes. A change adds, removes or moves an object, or replaces it by another one of the
    same size. Two changes never name the same cell."""
    board = {seen.cell: seen for seen in scene.objects}
    cells = rng.sample(CELLS, len(CELLS))
    said = []
    for _ in range(rng.randint(1, MAX_EDITS)):  # a change takes at most two of the nine cells
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
    """Return (texts, picture, edited picture) for one training row. In the mode base_reading, questions and answers
    alternate in the texts; the other modes have one text. The mode base_editing has an edited picture; in the other
    modes it is None. Raises ValueError if the mode is unknown."""
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

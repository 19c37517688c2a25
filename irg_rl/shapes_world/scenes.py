"""Makes scenes that satisfy the constraints of a prompt, and scenes with the typical errors of a weak model."""

import random
from functools import cache

import numpy as np

from irg_rl.shapes_world.check import judge_demand
from irg_rl.shapes_world.constraints import Demand, Thing, parse_metadata
from irg_rl.shapes_world.reading import read_batch
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    SHAPES,
    SIZES,
    WORLD,
    Blob,
    Color,
    Object,
    Scene,
    stands,
)

TRIES = 2000
PATIENCE = 10  # after this many attempts, fewer defects than asked for are accepted


def sample_scene(metadata: dict, rng: random.Random, distractor_share: float = 0.0) -> Scene:
    """Return a random scene (the content of a picture) that satisfies the metadata of a prompt. Cells, sizes,
    background and colours are random where the prompt does not determine them. With probability `distractor_share`, the
    scene has one more object, of a shape that the prompt does not mention. Raises ValueError if no such scene is
    found."""
    demand = parse_metadata(metadata)
    things = [thing for thing, count in demand.includes for _ in range(count)]
    owners = [index for index, (_, count) in enumerate(demand.includes) for _ in range(count)]
    mentioned = {thing.shape for thing, _ in demand.includes + demand.excludes}
    unmentioned = [shape for shape in SHAPES if shape not in mentioned]
    if unmentioned and rng.random() < distractor_share:
        things.append(Thing(rng.choice(unmentioned)))
    if len(things) > len(CELLS):
        raise ValueError(f"{len(things)} objects do not fit into {len(CELLS)} cells")
    for _ in range(TRIES):
        cells = rng.sample(CELLS, len(things))
        if _related(cells, owners, demand):
            objects = tuple(random_object(thing, cell, rng) for thing, cell in zip(things, cells))
            return Scene(rng.choice(BACKGROUNDS), objects)
    raise ValueError(f"found no places that satisfy the relations of {metadata.get('prompt', metadata)!r}")


def _related(cells: list[str], owners: list[int], demand: Demand) -> bool:
    for first, name, second in demand.relations:
        ones = [cell for cell, owner in zip(cells, owners) if owner == first]
        others = [cell for cell, owner in zip(cells, owners) if owner == second]
        if not all(stands(one, name, other) for one in ones for other in others):
            return False
    return True


def random_object(thing: Thing, cell: str, rng: random.Random) -> Object:
    """Return an object in this cell that fits `thing` (a shape with or without a colour). Its size is random, and its
    colour is also random if `thing` has no colour."""
    color = thing.color or rng.choice(tuple(COLORS))
    dx, dy = (rng.randint(-WORLD.jitter, WORLD.jitter) for _ in range(2))
    return Object(thing.shape, color, rng.choice(tuple(SIZES)), cell, dx, dy)


def corrupt(scene: Scene, metadata: dict, rng: random.Random, n_defects: int, clutter_share: float = 0.1) -> Scene:
    """Return a wrong scene: a copy of `scene` with `n_defects` random defects. `scene` itself is right for the prompt
    with these metadata. A defect is a missing object, an unreadable object, a wrong colour, shape or place of an
    object, or one object too many. Two defects never change the same object.

    Two defects can cancel each other out, so a scene is made again until the checker finds exactly `n_defects` defects.
    After PATIENCE attempts, any scene with at least one defect is accepted. With probability `clutter_share`, the scene
    also gets an unreadable blob in a free cell, which is no defect. Raises ValueError if no wrong scene is found.
    """
    demand = parse_metadata(metadata)
    for attempt in range(TRIES):
        wreck = Wreck(scene, demand, rng)
        for _ in range(n_defects):
            wreck.accident()
        number = len(judge_demand(wreck.objects(), demand).defects)
        if number == n_defects or (number and attempt >= PATIENCE):
            break
    else:
        raise ValueError(f"found no way to break {metadata.get('prompt', metadata)!r}")
    if rng.random() < clutter_share and (cells := wreck.free()):
        wreck.garble_cell(rng.choice(cells))
    return wreck.scene()


class Wreck:
    """A scene to which random defects are added one by one. Two defects never change the same object."""

    def __init__(self, scene: Scene, demand: Demand, rng: random.Random) -> None:
        self.background, self.demand, self.rng = scene.background, demand, rng
        self.board: dict[str, Object | Blob] = {thing.cell: thing for thing in (*scene.objects, *scene.blobs)}
        self.intact = list(scene.objects)
        rng.shuffle(self.intact)
        kinds = [(self.lose, 2), (self.garble, 2), (self.reshape, 3), (self.add, 2)]
        kinds += [(self.recolor, 4)] if any(thing.color for thing, _ in demand.includes) else []
        kinds += [(self.displace, 5)] if demand.relations else []
        self.kinds, self.weights = zip(*kinds)

    def objects(self) -> tuple[Object, ...]:
        return tuple(content for content in self.board.values() if isinstance(content, Object))

    def scene(self) -> Scene:
        blobs = tuple(content for content in self.board.values() if isinstance(content, Blob))
        return Scene(self.background, self.objects(), blobs)

    def free(self) -> list[str]:
        return [cell for cell in CELLS if cell not in self.board]

    def accident(self) -> None:
        if not self.intact:
            self.add()
            return
        self.rng.choices(self.kinds, self.weights)[0]()

    def lose(self) -> None:
        del self.board[self.intact.pop().cell]

    def garble(self) -> None:
        self.garble_cell(self.intact.pop().cell)

    def garble_cell(self, cell: str) -> None:
        self.board[cell] = Blob(cell, self.rng.choice(unreadable_seeds(self.background)))

    def reshape(self) -> None:
        old = self.intact.pop()
        self.board[old.cell] = old._replace(shape=self.rng.choice([shape for shape in SHAPES if shape != old.shape]))

    def recolor(self) -> None:
        old = self.intact.pop()
        self.board[old.cell] = old._replace(color=self.rng.choice([color for color in COLORS if color != old.color]))

    def add(self) -> None:
        """Add one more object of a kind that the prompt asks for, sometimes in another colour. Do nothing if no cell is
        free."""
        thing = self.rng.choice(self.demand.includes)[0]
        if self.rng.random() < 0.3:
            thing = Thing(thing.shape)
        if cells := self.free():
            cell = self.rng.choice(cells)
            self.board[cell] = random_object(thing, cell, self.rng)

    def displace(self) -> None:
        """Move objects so that one relation of the prompt no longer holds. Either one of the two objects of the
        relation is moved, or the two exchange their cells. Do nothing if one of the two objects is not in the scene."""
        first, name, second = self.rng.choice(self.demand.relations)
        one, other = (self._standing_for(index) for index in (first, second))
        if one is None or other is None:
            return
        wrong = [(cell, other.cell) for cell in self.free() if not stands(cell, name, other.cell)]
        wrong += [(one.cell, cell) for cell in self.free() if not stands(one.cell, name, cell)]
        cells = (other.cell, one.cell) if self.rng.random() < 0.3 or not wrong else self.rng.choice(wrong)
        for old in (one, other):
            self.intact.remove(old)
            del self.board[old.cell]
        self.board |= {cell: old._replace(cell=cell) for old, cell in zip((one, other), cells)}

    def _standing_for(self, index: int) -> Object | None:
        thing = self.demand.includes[index][0]
        return next((seen for seen in self.intact if thing.fits(seen)), None)


@cache
def unreadable_seeds(background: Color) -> tuple[int, ...]:
    """Return all seeds from 0 to 1023 that make unreadable blobs on this background. A seed determines how a blob (the
    content of a cell that the checker should not recognise) looks. With the other seeds, the checker takes the blob for
    an object or for an empty cell."""
    seeds = range(1024)
    pictures = np.stack([render(Scene(background, (), (Blob(CELLS[0], seed),))) for seed in seeds])
    return tuple(seed for seed, reading in zip(seeds, read_batch(pictures)) if reading.unclear)


def crowded_scene(rng: random.Random) -> Scene:
    """Return a scene with few or many random objects and blobs (unreadable contents) in random cells. Pictures of such
    scenes are used to train an autoencoder."""
    share = rng.uniform(0.2, 1.0)
    objects, blobs = [], []
    for cell in CELLS:
        draw = rng.random()
        if draw < 0.9 * share:
            objects.append(random_object(Thing(rng.choice(SHAPES)), cell, rng))
        elif draw < share:
            blobs.append(Blob(cell, rng.randrange(1 << 30)))
    return Scene(rng.choice(BACKGROUNDS), tuple(objects), tuple(blobs))

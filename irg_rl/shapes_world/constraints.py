"""What a prompt asks for, in the metadata format of GenEval, and text keys that identify a set of constraints.

The metadata have the fields `tag`, `prompt`, `include` [{class, count, color?, position? [relation, index of another
entry of `include`]}], `exclude` [{class, count, color?}] and `constraints`, the number of entries of `include` plus the
number of relations. An image is right if every entry of `include` is found at least `count` times, no entry of
`exclude` is found `count` times or more, and every relation holds. The prompts of the shapes world exclude `count + 1`
of everything that they include. So their counts are exact.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from irg_rl.shapes_world.scene import COLORS, ORDER, RELATIONS, SHAPES, Object, stands

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "scene")
MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COLOR_RANK = {None: -1} | {color: rank for rank, color in enumerate(COLORS)}


class Thing(NamedTuple):
    """A shape with a given colour, or with any colour."""

    shape: str
    color: str | None = None

    def __str__(self) -> str:
        return f"{self.color} {self.shape}" if self.color else self.shape

    def fits(self, seen: Object) -> bool:
        return seen.shape == self.shape and self.color in (None, seen.color)

    def rank(self) -> tuple[int, int]:
        """Return a sort key that gives the fixed order of things."""
        return SHAPES.index(self.shape), COLOR_RANK[self.color]


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MISSING, EXTRA = "missing", "extra"
NONE = "none"
"""The word that means "no relation" or "no cell" in a text."""


def sight(demand: "Demand", objects: Sequence[Object]) -> str:
    """Return a text that describes, for each thing that the prompt asks for, its cells in reading order, its number,
    and whether some are missing or extra. Things and numbers are written exactly as in the think text
    (`teacher.think_text`). A small model learns to copy words in order, and to compare neighbouring words, much earlier
    than to look up a number."""
    said = []
    for thing, count in demand.includes:
        cells = _cells(thing, objects)
        excess = any(other == thing and len(cells) >= limit for other, limit in demand.excludes)
        wrong = f" {MISSING}" if len(cells) < count else f" {EXTRA}" if excess else ""
        named = f"{NUMBERS[count]} {thing}"
        said.append(f"{' '.join((named, 'at', *cells)) if cells else named} : {NUMBERS[len(cells)]}{wrong}")
    return f"i see {' , '.join(said)} ."


def _cells(thing: Thing, objects: Sequence[Object]) -> list[str]:
    return [seen.cell for seen in in_order(objects) if thing.fits(seen)]


def sight_of_relation(first: Thing, name: str, second: Thing, objects: Sequence[Object]) -> str:
    """Return a text about two things of a picture: the cells of both, then all relations that hold between them, then
    whether the relation `name` holds. In this order, each word follows from the few words before it. If the last
    sentence stood alone, a small model would only guess it."""
    ones, others = _cells(first, objects), _cells(second, objects)
    holding = [name for name in RELATIONS if all(stands(one, name, other) for one in ones for other in others)]
    told = f"{first} is {name if name in holding else f'not {name}'} {second} ."
    return f"{first} at {' '.join(ones)} , {second} at {' '.join(others)} : {' and '.join(holding) or NONE} . {told}"


def sight_of_room(bounds: Sequence[tuple[str, Thing, Sequence[str]]], cells: Sequence[str]) -> str:
    """Return a text that lists the free cells which satisfy all relations in `bounds`. Each bound is (relation, other
    thing, cells of the other thing)."""
    said = " and ".join(f"{name} {thing} at {' '.join(places)}" for name, thing, places in bounds)
    return f"free {said} : {' '.join(cells) or NONE} ."


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Return the objects in reading order, row by row."""
    return sorted(objects, key=lambda seen: ORDER[seen.cell])


class Relation(NamedTuple):
    """Relation between two entries of `include`: entry number `first` must be `name` (for example "left of") entry
    number `second`."""

    first: int
    name: str
    second: int


@dataclass(frozen=True)
class Demand:
    """Checked metadata. `includes` and `excludes` are pairs (thing, count). `relations` are between entries of
    `includes`."""

    includes: tuple[tuple[Thing, int], ...]
    excludes: tuple[tuple[Thing, int], ...]
    relations: tuple[Relation, ...]


def parse_metadata(metadata: dict) -> Demand:
    """Check the metadata of a prompt and return them as a `Demand`. Raises ValueError if they ask for something that
    the shapes world does not have."""
    includes, excludes = metadata.get("include", []), metadata.get("exclude", [])
    if not includes:
        raise ValueError(f"the metadata of prompt {metadata.get('prompt', '?')!r} includes nothing")
    relations = []
    for index, entry in enumerate(includes):
        if "position" not in entry:
            continue
        name, other = entry["position"]
        if name not in RELATIONS:
            raise ValueError(f"unknown relation {name!r}: use one of {', '.join(RELATIONS)}")
        if other == index or not 0 <= other < len(includes):
            raise ValueError(f"include {index} stands {name!r} include {other}, which does not exist")
        relations.append(Relation(index, name, other))
    return Demand(_pairs(includes), _pairs(excludes), tuple(relations))


def exactly(wanted: Sequence[tuple[Thing, int]]) -> Demand:
    """Return a demand for exactly the given number of each thing."""
    return Demand(tuple(wanted), tuple((thing, count + 1) for thing, count in wanted), ())


def _pairs(entries: list[dict]) -> tuple[tuple[Thing, int], ...]:
    pairs = []
    for entry in entries:
        shape, color, count = entry.get("class"), entry.get("color"), entry.get("count")
        if shape not in SHAPES:
            raise ValueError(f"unknown class {shape!r}: the shapes world has {', '.join(SHAPES)}")
        if color is not None and color not in COLORS:
            raise ValueError(f"unknown color {color!r}: the shapes world has {', '.join(COLORS)}")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"the count of {shape!r} is {count!r}: it must be a positive integer")
        pairs.append((Thing(shape, color), count))
    return tuple(pairs)


def make_metadata(tag: str, prompt: str, includes: list[tuple[Thing, int]], relations: list[Relation]) -> dict:
    """Return metadata in the format of GenEval with exact counts. `exclude` forbids one more of each included thing,
    and further objects of the same shape in another colour."""
    positions = {relation.first: [relation.name, relation.second] for relation in relations}
    include = [_entry(thing, count) for thing, count in includes]
    for index, position in positions.items():
        include[index]["position"] = position
    exclude = [_entry(thing, count + 1) for thing, count in includes]
    per_shape = Counter()
    for thing, count in includes:
        per_shape[thing.shape] += count if thing.color else 0
    exclude += [_entry(Thing(shape), count + 1) for shape, count in per_shape.items() if count]
    number = len(includes) + len(relations)
    return {"tag": tag, "include": include, "exclude": exclude, "prompt": prompt, "constraints": number}


def _entry(thing: Thing, count: int) -> dict:
    entry = {"class": thing.shape, "count": count}
    return entry | {"color": thing.color} if thing.color else entry


def canonical_relations(demand: Demand) -> list[tuple[Thing, str, Thing]]:
    """Return the relations in a fixed order, written only with `left of` and `above`."""
    found = []
    for first, name, second in demand.relations:
        if name in ("right of", "below"):
            first, name, second = second, MIRROR[name], first
        found.append((demand.includes[first][0], name, demand.includes[second][0]))
    return sorted(found, key=lambda item: (item[0].rank(), item[1], item[2].rank()))


def canonical_key(includes: list[tuple[Thing, int]], relations: list[Relation]) -> str:
    """Return a text key of a set of constraints. Equal sets have equal keys: the order of the constraints does not
    matter, nor whether a relation is written as "a left of b" or as "b right of a"."""
    demand = Demand(tuple(includes), (), tuple(relations))
    ordered = sorted(includes, key=lambda pair: (pair[0].rank(), pair[1]))
    return json.dumps([ordered, canonical_relations(demand)])


def metadata_key(metadata: dict) -> str:
    demand = parse_metadata(metadata)
    return canonical_key(list(demand.includes), list(demand.relations))


def stable_fraction(key: str) -> float:
    """Return a number in [0, 1) that depends only on the text. It comes from a sha256 hash, so it is the same in every
    run."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64

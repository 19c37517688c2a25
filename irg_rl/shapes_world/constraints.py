"""What a prompt asks for, in the format of GenEval, and which split a set of constraints belongs to.

Metadata: `tag`, `prompt`, `include` [{class, count, color?, position? [relation, index of another include]}],
`exclude` [{class, count, color?}] (that many are too many) and `constraints`, the number of includes and relations.
An image is right when every include is found at least `count` times, no exclude is found `count` times, and every
relation holds. The world's own prompts exclude one more of everything they include, so their counts are exact.
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
        """Place in the canonical order."""
        return SHAPES.index(self.shape), COLOR_RANK[self.color]


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MISSING, EXTRA = "missing", "extra"
NONE = "none"
"""No relation, or no cell."""


def sight(demand: "Demand", objects: Sequence[Object]) -> str:
    """For each demanded thing: its cells in reading order, their number, and whether some are missing or extra. Things
    and numbers are written exactly as in the think text. A small model learns to copy in order and to compare
    neighbouring words much earlier than to look up a number."""
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
    """The cells of both things, how every `first` lies to every `second`, and whether this is `name`. In this order
    each word follows from the few words before it. A small model would only guess the last sentence alone."""
    ones, others = _cells(first, objects), _cells(second, objects)
    holding = [name for name in RELATIONS if all(stands(one, name, other) for one in ones for other in others)]
    told = f"{first} is {name if name in holding else f'not {name}'} {second} ."
    return f"{first} at {' '.join(ones)} , {second} at {' '.join(others)} : {' and '.join(holding) or NONE} . {told}"


def sight_of_room(bounds: Sequence[tuple[str, Thing, Sequence[str]]], cells: Sequence[str]) -> str:
    """The free cells that satisfy all relations to things in the given cells."""
    said = " and ".join(f"{name} {thing} at {' '.join(places)}" for name, thing, places in bounds)
    return f"free {said} : {' '.join(cells) or NONE} ."


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Objects in reading order, row by row."""
    return sorted(objects, key=lambda seen: ORDER[seen.cell])


class Relation(NamedTuple):
    """Include number `first` is `name` of include number `second`."""

    first: int
    name: str
    second: int


@dataclass(frozen=True)
class Demand:
    """Checked metadata: pairs (thing, count), and relations between includes."""

    includes: tuple[tuple[Thing, int], ...]
    excludes: tuple[tuple[Thing, int], ...]
    relations: tuple[Relation, ...]


def parse_metadata(metadata: dict) -> Demand:
    """Check metadata. ValueError if it asks for something that this world does not have."""
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
    """A demand for exactly this number of each thing."""
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
    """GenEval-style metadata with exact counts. One more of any include is excluded. An object of an included shape in
    another colour is excluded too."""
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
    """Relations with only `left of` and `above`, in a fixed order."""
    found = []
    for first, name, second in demand.relations:
        if name in ("right of", "below"):
            first, name, second = second, MIRROR[name], first
        found.append((demand.includes[first][0], name, demand.includes[second][0]))
    return sorted(found, key=lambda item: (item[0].rank(), item[1], item[2].rank()))


def canonical_key(includes: list[tuple[Thing, int]], relations: list[Relation]) -> str:
    """A text that is equal for equal sets of constraints, in any order and direction of relations."""
    demand = Demand(tuple(includes), (), tuple(relations))
    ordered = sorted(includes, key=lambda pair: (pair[0].rank(), pair[1]))
    return json.dumps([ordered, canonical_relations(demand)])


def metadata_key(metadata: dict) -> str:
    demand = parse_metadata(metadata)
    return canonical_key(list(demand.includes), list(demand.relations))


def stable_fraction(key: str) -> float:
    """A number in [0, 1) that depends only on the text and never changes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64

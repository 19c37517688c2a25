"""Describes what a prompt asks for, and makes text keys that identify a set of constraints. A set of constraints is all
that a prompt asks for: its objects, their numbers and their relations.

The metadata of a prompt have the format of the GenEval benchmark, with these fields:

- `tag`, `prompt`
- `include`: [{class, count, color?, position? [relation, index of another entry of `include`]}]
- `exclude`: [{class, count, color?}]
- `constraints`: the number of entries of `include` plus the number of relations

An image is right if every relation holds and all numbers of objects are right. Every entry of `include` must be found
at least `count` times. No entry of `exclude` may be found `count` times or more. In the prompts of the shapes world,
`exclude` repeats every entry of `include` with `count + 1`. So a right image has exactly `count` objects of each kind.
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
    """A kind of object: a shape with a given colour, or with any colour if `color` is None."""

    shape: str
    color: str | None = None

    def __str__(self) -> str:
        return f"{self.color} {self.shape}" if self.color else self.shape

    def fits(self, seen: Object) -> bool:
        return seen.shape == self.shape and self.color in (None, seen.color)

    def rank(self) -> tuple[int, int]:
        """Return a sort key. Things are sorted by shape, then by colour."""
        return SHAPES.index(self.shape), COLOR_RANK[self.color]


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MISSING, EXTRA = "missing", "extra"
NONE = "none"
"""The word that a text uses if no relation holds or no cell is suitable."""


def sight(demand: "Demand", objects: Sequence[Object]) -> str:
    """Return a text that says which of the wanted objects are in a picture. For each kind of object that the prompt
    asks for, the text has the wanted number, the cells of the objects (row by row), and the found number. If the found
    number is too small or too large, the word "missing" or "extra" follows. An example is "i see two red ring at north
    east : two , one bar : zero missing .".

    Kinds and wanted numbers are written exactly as in the think text, which the model writes before its first image
    (`teacher.think_text`). So a small model only has to copy words in order and to compare neighbouring words. It
    learns these two skills much earlier than it learns to look up a number in the think text.
    """
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
    """Return a text about two kinds of object in a picture. First it gives the cells of both kinds, then all true
    relations between the two kinds. At the end, it says whether the relation `name` holds. An example is "red ring at
    north , bar at south : above . red ring is above bar .". In this order, a small model can derive each word from the
    few words before it. Without the words before the last sentence, it would only guess whether the relation holds."""
    ones, others = _cells(first, objects), _cells(second, objects)
    holding = [name for name in RELATIONS if all(stands(one, name, other) for one in ones for other in others)]
    told = f"{first} is {name if name in holding else f'not {name}'} {second} ."
    return f"{first} at {' '.join(ones)} , {second} at {' '.join(others)} : {' and '.join(holding) or NONE} . {told}"


def sight_of_room(bounds: Sequence[tuple[str, Thing, Sequence[str]]], cells: Sequence[str]) -> str:
    """Return a text that names the cells in `cells`: the free grid cells of a picture in which all relations in
    `bounds` hold. Each entry of `bounds` is a tuple (relation, other kind of object, cells of the objects of that
    kind). For example, "free above bar at south : north west ." says: above the bar, which is at south, the cells north
    and west are free."""
    said = " and ".join(f"{name} {thing} at {' '.join(places)}" for name, thing, places in bounds)
    return f"free {said} : {' '.join(cells) or NONE} ."


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Return the objects sorted by their cells: row by row from the top, and from left to right in each row."""
    return sorted(objects, key=lambda seen: ORDER[seen.cell])


class Relation(NamedTuple):
    """A relation between two entries of a prompt's `include` list (the wanted kinds of object). The objects of entry
    number `first` must be `name` (for example "left of") the objects of entry number `second`."""

    first: int
    name: str
    second: int


@dataclass(frozen=True)
class Demand:
    """What a prompt asks for, made from its metadata. `includes` has the wanted objects and `excludes` the forbidden
    objects, as pairs (thing, count). `relations` are between entries of `includes`."""

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
    """Return a `Demand` that is met by pictures with exactly the given number of each thing. `wanted` has pairs (thing,
    number)."""
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
    """Return the metadata of a prompt in the format of GenEval. A picture must show exactly the wanted number of each
    thing. So the list `exclude` has an entry for each thing in `includes`, with the wanted number plus one: this many
    objects, or more, are forbidden. If a shape is wanted in certain colours, `exclude` has one more entry for this
    shape in any colour. The number in this entry is the wanted number of all these colours together, plus one. For
    example, for 2 red bars and 1 blue bar, `exclude` has 3 red bars, 2 blue bars, and 4 bars of any colour."""
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
    """Return the relations that a prompt demands as (thing, relation, other thing) in a fixed order, written only with
    `left of` and `above`. For example, "a below b" is returned as (b, above, a)."""
    found = []
    for first, name, second in demand.relations:
        if name in ("right of", "below"):
            first, name, second = second, MIRROR[name], first
        found.append((demand.includes[first][0], name, demand.includes[second][0]))
    return sorted(found, key=lambda item: (item[0].rank(), item[1], item[2].rank()))


def canonical_key(includes: list[tuple[Thing, int]], relations: list[Relation]) -> str:
    """Return a text key of a set of constraints: the objects, their numbers and their relations that a prompt asks for.
    Equal sets have equal keys. The order of the constraints does not matter. The relations "a left of b" and "b right
    of a" count as equal, too."""
    demand = Demand(tuple(includes), (), tuple(relations))
    ordered = sorted(includes, key=lambda pair: (pair[0].rank(), pair[1]))
    return json.dumps([ordered, canonical_relations(demand)])


def metadata_key(metadata: dict) -> str:
    demand = parse_metadata(metadata)
    return canonical_key(list(demand.includes), list(demand.relations))


def stable_fraction(key: str) -> float:
    """Return a number in [0, 1) that depends only on the text. It is computed from the sha256 hash of the text, so
    every process gets the same number for the same text."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64

"""Judges a picture of the shapes world: right or wrong, a graded score in [0, 1], and a list of all defects. A picture
is a grid of nine cells; a cell can hold one object.

The rules are those of GenEval, a benchmark for text-to-image models. The metadata of a prompt list wanted objects
(`include`), forbidden objects (`exclude`), and relations between wanted objects. Each entry of `include` and `exclude`
has a `count`. A picture is right if three conditions hold:

- Every entry of `include` is found at least `count` times.
- No entry of `exclude` is found `count` times or more.
- Every relation holds for all pairs of objects that it is about.

A picture may have unreadable cells, and shapes that the prompt does not mention.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from irg_rl.shapes_world.constraints import Demand, Thing, parse_metadata
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import ORDER, Object, stands
from irg_rl.task import Verdict

NEAR_MISS = 0.5  # score of an object of the wrong colour or shape; a right object scores 1


class DefectKind(StrEnum):
    COLOR = "color"
    SHAPE = "shape"
    EXTRA = "extra"
    MISSING = "missing"
    RELATION = "relation"


@dataclass(frozen=True)
class Defect:
    """One error in a picture.

    What `thing` means depends on the kind of the defect:

    - color and shape: the object as it is in the picture. `want` is the object that should be there.
    - missing: the object that should be there.
    - extra: the object that is forbidden.
    - relation: a wanted object that should have the relation `relation` to `other`, but does not.

    `cell` is the cell of the wrong object in the picture, or None if no cell can be named.
    """

    kind: DefectKind
    thing: Thing
    want: Thing | None = None  # kinds color and shape: what the object should be
    relation: str | None = None  # kind relation: for example "left of"
    other: Thing | None = None
    cell: str | None = None

    def claim(self) -> tuple:
        """Return all fields except the grid cell, as a tuple. Two defects have equal tuples if a text would describe
        them in the same words."""
        return self.kind, self.thing, self.want, self.relation, self.other


@dataclass(frozen=True)
class Check:
    """The result of checking a picture against one constraint of its prompt. `score` is in [0, 1]. It is 1 if and only
    if the constraint holds."""

    constraint: str
    passed: bool
    score: float
    reason: str


@dataclass(frozen=True)
class Inspection(Verdict):
    """The verdict on a picture, with its reasons. If the picture is right (`correct`), `score` is 1 and `defects` is
    empty. If it is wrong, `score` is below 1 and `defects` is not empty.

    A prompt has a list `include` of wanted objects, a list `exclude` of forbidden objects, and relations. `checks` has
    one entry for each entry of `include` and one for each relation. An entry of `exclude` has its own check only if
    `include` asks for no such object. For example, `include` asks for 2 circles and `exclude` forbids 3 circles. Then
    one check covers both entries: exactly 2 circles.
    """

    checks: tuple[Check, ...]
    defects: tuple[Defect, ...]


def judge(reading: PictureReading, metadata: dict) -> Inspection:
    """Return the verdict on a picture: whether it is right, its score and its defects. `reading` has the objects that
    were found in the pixels, and `metadata` says what the prompt asks for. Raises ValueError if the metadata ask for
    something that the shapes world does not have."""
    return judge_demand(reading.objects, parse_metadata(metadata))


def judge_demand(objects: tuple[Object, ...], demand: Demand) -> Inspection:
    matching = Matching(tuple(sorted(objects, key=lambda seen: ORDER[seen.cell])), demand)
    constraints = [_check_include(matching, index) for index in range(len(demand.includes))]
    constraints += [_check_relation(matching, index) for index in range(len(demand.relations))]
    strict = [_check_exclude(objects, thing, count) for thing, count in _lone_excludes(demand)]
    score = sum(check.score for check in constraints) / len(constraints)
    for check in strict:
        score *= check.score
    checks = (*constraints, *strict)
    correct = all(check.passed for check in checks)
    return Inspection(correct, 1.0 if correct else score, checks, tuple(() if correct else matching.defects))


class Matching:
    """An assignment of the objects in a picture to the entries of the prompt's `include` list (the wanted kinds of
    object). Objects that are not assigned may explain why a wanted object is missing. For example, a red ring is
    missing, and a blue ring is not assigned. Then the blue ring counts as the red ring in a wrong colour."""

    def __init__(self, objects: tuple[Object, ...], demand: Demand) -> None:
        self.objects, self.demand = objects, demand
        self.found = [[seen for seen in objects if thing.fits(seen)] for thing, _ in demand.includes]

    @cached_property
    def kept(self) -> list[list[Object]]:
        """Return one list for each entry of the prompt's `include` list (the wanted kinds of object). The list has the
        objects of the picture that are assigned to this entry. It has at most as many objects as the `count` of the
        entry. If more objects fit, objects in cells that satisfy the relations of the prompt come first."""
        return [self._best(index)[:count] for index, (_, count) in enumerate(self.demand.includes)]

    @cached_property
    def defects(self) -> list[Defect]:
        """Return all defects of the picture, in a fixed order. If a wanted object is missing, an unassigned object of
        the right shape is reported as an object of a wrong colour. If there is no such object, an unassigned object of
        the right colour is reported as an object of a wrong shape. If there is no such object either, the wanted object
        is reported as missing."""
        kept = {seen.cell for seen in sum(self.kept, [])}
        spare = [seen for seen in self.objects if seen.cell not in kept]
        pairs = zip(self.demand.includes, self.kept)
        short = [thing for (thing, count), seen in pairs for _ in range(count - len(seen))]
        recolored = _take(short, spare, lambda thing, seen: thing.shape == seen.shape)
        reshaped = _take(short, spare, lambda thing, seen: thing.color in (None, seen.color))
        defects = [Defect(DefectKind.COLOR, as_thing(seen), want, cell=seen.cell) for want, seen in recolored]
        defects += [Defect(DefectKind.SHAPE, as_thing(seen), want, cell=seen.cell) for want, seen in reshaped]
        defects += self._extras(spare)
        defects += [Defect(DefectKind.MISSING, thing) for thing in short]
        mended = {defect.cell for defect in defects}
        return defects + self._broken(mended)

    def _best(self, index: int) -> list[Object]:
        found, count = self.found[index], self.demand.includes[index][1]
        return found if len(found) <= count else sorted(found, key=lambda seen: self._broken_by(index, seen))

    def _broken_by(self, index: int, seen: Object) -> int:
        """Return how many relations would fail if the object `seen` were assigned to entry `index` of `include`. A
        relation is between two entries. It fails if no object that fits the other entry is in a suitable cell."""
        broken = 0
        for first, name, second in self.demand.relations:
            if index == first:
                broken += not any(stands(seen.cell, name, other.cell) for other in self.found[second])
            elif index == second:
                broken += not any(stands(other.cell, name, seen.cell) for other in self.found[first])
        return broken

    def _extras(self, spare: list[Object]) -> list[Defect]:
        """Return a defect for each object in `spare` that the prompt's `exclude` list forbids, and remove these objects
        from `spare`. `spare` has the objects that are not assigned to any wanted object. The number of objects of each
        kind is counted as if all missing objects had already been added."""
        defects, mended = [], self.demand.includes
        for thing, limit in self.demand.excludes:
            present = sum(count for wanted, count in mended if _within(wanted, thing))
            over = [seen for seen in spare if thing.fits(seen)]
            for seen in over[max(0, limit - 1 - present) :]:
                spare.remove(seen)
                named = thing if any(thing == wanted for wanted, _ in mended) else as_thing(seen)
                defects.append(Defect(DefectKind.EXTRA, named, cell=seen.cell))
        return defects

    def _broken(self, mended: set[str | None]) -> list[Defect]:
        """Return a defect for each relation between two entries of `include` that does not hold. A relation is skipped
        if the picture has too few objects for one of its two entries. Objects in the cells `mended` already have
        another defect and are ignored."""
        defects = []
        for first, name, second in self.demand.relations:
            a, b = self.demand.includes[first], self.demand.includes[second]
            ones, others = ([seen for seen in self.found[i] if seen.cell not in mended] for i in (first, second))
            if len(ones) < a[1] or len(others) < b[1]:
                continue
            wrong = [one for one in ones if not all(stands(one.cell, name, other.cell) for other in others)]
            if wrong:
                defects.append(Defect(DefectKind.RELATION, a[0], None, name, b[0], wrong[0].cell))
        return defects


def as_thing(seen: Object) -> Thing:
    return Thing(seen.shape, seen.color)


def _within(wanted: Thing, wider: Thing) -> bool:
    """Return whether every object that fits `wanted` (for example "red ring") also fits `wider` (for example
    "ring")."""
    return wanted.shape == wider.shape and wider.color in (None, wanted.color)


def _take(short: list[Thing], spare: list[Object], near) -> list[tuple[Thing, Object]]:
    """Return pairs (missing thing, similar object). Each missing thing in `short` is paired with the first object in
    `spare` for which `near(thing, object)` is true. The function removes each paired thing from `short` and each paired
    object from `spare`."""
    pairs = []
    for thing in list(short):
        seen = next((seen for seen in spare if near(thing, seen)), None)
        if seen is not None:
            pairs.append((thing, seen))
            short.remove(thing)
            spare.remove(seen)
    return pairs


def _lone_excludes(demand: Demand) -> list[tuple[Thing, int]]:
    """Return those entries (thing, count) of the prompt's `exclude` list (forbidden objects) that are not about any
    thing in its `include` list (wanted objects). For example, an entry for "ring" is left out if `include` has "red
    ring"."""
    return [pair for pair in demand.excludes if not any(_within(thing, pair[0]) for thing, _ in demand.includes)]


def _check_include(matching: Matching, index: int) -> Check:
    thing, count = matching.demand.includes[index]
    found = len(matching.found[index])
    near = sum(defect.want is not None and _within(defect.want, thing) for defect in matching.defects)
    score = min(1.0, (min(found, count) + NEAR_MISS * min(near, max(0, count - found))) / count)
    reasons = [] if found >= count else [f"{count} {thing} wanted, {found} found"]
    for other, limit in matching.demand.excludes:
        seen = sum(other.fits(item) for item in matching.objects)
        if _within(thing, other) and seen >= limit:
            reasons.append(f"at most {limit - 1} {other} wanted, {seen} found")
            score *= (limit - 1) / seen
    return Check(f"{count} {thing}", not reasons, score, "; ".join(reasons))


def _check_relation(matching: Matching, index: int) -> Check:
    first, name, second = matching.demand.relations[index]
    a, b = matching.demand.includes[first][0], matching.demand.includes[second][0]
    ones, others = matching.found[first], matching.found[second]
    holds = all(stands(one.cell, name, other.cell) for one in ones for other in others)
    there = bool(ones) and bool(others)
    reason = "" if there and holds else f"{a} is not {name} {b}" if there else f"no {b if ones else a} to compare"
    return Check(f"{a} {name} {b}", there and holds, float(there and holds), reason)


def _check_exclude(objects: tuple[Object, ...], thing: Thing, limit: int) -> Check:
    found = sum(thing.fits(seen) for seen in objects)
    passed = found < limit
    reason = "" if passed else f"at most {limit - 1} {thing} wanted, {found} found"
    return Check(f"fewer than {limit} {thing}", passed, 1.0 if passed else (limit - 1 + 0.5) / (found + 1), reason)

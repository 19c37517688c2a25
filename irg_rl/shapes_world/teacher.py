"""Writes and parses the texts of the teacher. The teacher is a set of rules that writes think texts and reflections for
training.

A think text says what the prompt asks for. It NEVER names cells or anything else that the prompt does not determine. So
the think text alone does not say where the objects are, and the model must look at the first image to refine it. A
reflection describes a picture, with the cells of its objects. It also names the errors of the picture, and for each
error an edit that repairs it and the cell to edit.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from irg_rl.shapes_world.check import Defect, DefectKind, as_thing, judge
from irg_rl.shapes_world.constraints import (
    EXTRA,
    MISSING,
    NONE,
    NUMBERS,
    Thing,
    in_order,
    parse_metadata,
    sight,
    sight_of_relation,
    sight_of_room,
)
from irg_rl.shapes_world.edits import Edit, EditKind, plan_edits
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import CELLS, COLORS, RELATIONS, SHAPES

NOTHING = "nothing to change ."
BLUR = "blur"
"""The word in a text for the content of a cell that cannot be read."""
STOP = f"<think> {NOTHING} </think>"
"""The shortest reflection that asks for no change."""
INITIAL_QUESTION = "what must this picture show ?"
IMPROVING_QUESTION = "what must change in the first picture ?"

_COLOR, _SHAPE, _CELL = ("|".join(words) for words in (COLORS, SHAPES, CELLS))
_THING = rf"(?:(?:{_COLOR}) )?(?:{_SHAPE})"
_COLORED = rf"(?:{_COLOR}) (?:{_SHAPE})"
_PLACED = rf"{_THING} at(?: (?:{_CELL}))+"
_RELATION = "|".join(RELATIONS)
_NUMBER = "|".join(NUMBERS)
_SEEN = rf"(?:(?:{_NUMBER}) )?(?:{_PLACED}|{_THING}) : (?:{_NUMBER})(?: (?:{MISSING}|{EXTRA}))?"
_RELATED = (
    rf"{_PLACED} , {_PLACED} : (?:(?:{_RELATION})(?: and (?:{_RELATION}))*|{NONE}) \. "
    rf"{_THING} is (?:not )?(?:{_RELATION}) {_THING} \. "
)
_BOUND = rf"(?:{_RELATION}) {_PLACED}"
_ROOM = rf"(?:free {_BOUND}(?: and {_BOUND})* :(?:(?: (?:{_CELL}))+| {NONE}) \. )?"
_ALSO = rf"(?:{_COLORED}|{BLUR}) at (?:{_CELL})"
_SIGHT = re.compile(
    rf"i see {_SEEN}(?: , {_SEEN})* \. "
    rf"(?:{_RELATED})*"
    rf"(?:also {_ALSO}(?: , {_ALSO})* \. )?"
)
_AT = rf"at (?P<cell>{_CELL}) \. "
_SENTENCES = {
    DefectKind.MISSING: rf"one (?P<thing>{_THING}) is missing \. {_ROOM}put (?P<seen>{_COLORED}) {_AT}",
    DefectKind.EXTRA: rf"one (?P<thing>{_THING}) is extra \. remove (?P<seen>{_COLORED}) {_AT}",
    DefectKind.COLOR: rf"(?P<seen>(?:{_COLOR}) (?P<shape>{_SHAPE})) is wrong color \. "
    rf"put (?P<to>{_COLOR}) (?P=shape) {_AT}",
    DefectKind.SHAPE: rf"(?P<seen>(?P<color>{_COLOR}) (?:{_SHAPE})) is wrong shape \. "
    rf"put (?P=color) (?P<to>{_SHAPE}) {_AT}",
    DefectKind.RELATION: rf"(?P<thing>{_THING}) is not (?P<relation>{_RELATION}) (?P<other>{_THING}) \. {_ROOM}"
    rf"remove (?P<seen>{_COLORED}) {_AT}put (?P=seen) at (?P<to>{_CELL}) \. ",
}
_PATTERNS = {kind: re.compile(sentence) for kind, sentence in _SENTENCES.items()}


@dataclass(frozen=True)
class ParsedReflection:
    """A reflection as data. If it says that nothing is to be changed, `stop` is True. Otherwise, `defects` are the
    stated errors and `edits` their repairs, in the same order. For a defect of the kind shape, the text names only the
    wanted shape. So the wanted object (`want`) gets the colour of the object in the picture."""

    stop: bool
    edits: tuple[Edit, ...] = ()
    defects: tuple[Defect, ...] = ()


def think_text(metadata: dict) -> str:
    """Return the think text of a prompt: the objects that the prompt asks for with their numbers, then the relations.
    Objects and relations are in the order of the metadata. They are not sorted, because a model learns to copy much
    earlier than to sort. An example is "<think> i need one red ring , two bar . red ring above bar . </think>"."""
    demand = parse_metadata(metadata)
    text = "i need " + " , ".join(f"{NUMBERS[count]} {thing}" for thing, count in demand.includes) + " ."
    for first, name, second in demand.relations:
        text += f" {demand.includes[first][0]} {name} {demand.includes[second][0]} ."
    return f"<think> {text} </think>"


def sight_text(reading: PictureReading, metadata: dict) -> str:
    """Return a text that describes the picture for a given prompt. It says, in this order:

    - The kinds of object that the prompt asks for. For each kind, the text says where the objects are, their number,
      and whether they are too few or too many. Words and order are the same as in the think text, which the model
      writes before its first image.
    - The relations that the prompt demands, and whether they hold. A relation is left out if the picture has no object
      of one of its two kinds.
    - All other contents of cells: further objects and unreadable cells.

    Defects and free cells follow from this text. If the prompt asks for an object without naming its colour, the text
    does not mention the colour either.
    """
    demand = parse_metadata(metadata)
    things = [thing for thing, _ in demand.includes]
    there = [any(thing.fits(seen) for seen in reading.objects) for thing in things]
    said = [sight(demand, reading.objects)]
    for first, name, second in demand.relations:
        if there[first] and there[second]:
            said.append(sight_of_relation(things[first], name, things[second], reading.objects))
    others = [seen for seen in in_order(reading.objects) if not any(thing.fits(seen) for thing in things)]
    also = [f"{as_thing(seen)} at {seen.cell}" for seen in others] + [f"{BLUR} at {cell}" for cell in reading.unclear]
    return " ".join((*said, f"also {' , '.join(also)} .") if also else said)


def reflection_text(sight: str, edits: list[Edit]) -> str:
    """Return the text of a reflection: first `sight`, the description of the picture, then each defect with the edit
    that repairs it. If there are no edits, the text says instead that nothing is to be changed."""
    return f"<think> {' '.join((sight, *map(_sentence, edits))) if edits else f'{sight} {NOTHING}'} </think>"


def reflect(
    reading: PictureReading,
    metadata: dict,
    rng: random.Random,
    max_fixes: int | None = 2,
    overlooked: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, list[Edit]]:
    """Return (reflection, edits): the teacher's text about a picture, and the edits that this text asks for. The edits
    repair at most `max_fixes` defects. If `max_fixes` is None, they repair all defects. `overlooked` maps a kind of
    defect to a share. This share of such defects gets no edit, although the description of the picture shows the
    defects."""
    edits = plan_edits(reading, metadata, rng, max_fixes, overlooked)
    return reflection_text(sight_text(reading, metadata), edits), edits


def _sentence(edit: Edit) -> str:
    """Return a text that states one defect and the edit that repairs it. Edits use only two verbs: put something into a
    cell, or remove it."""
    defect, seen, cell = edit.defect, edit.thing, edit.cell
    assert defect is not None, "an edit that is put into words says which defect it repairs"
    room = f"{sight_of_room(edit.room.bounds, edit.room.cells)} " if edit.room else ""
    match edit.kind:
        case EditKind.ADD:
            return f"one {defect.thing} is missing . {room}put {seen} at {cell} ."
        case EditKind.REMOVE:
            return f"one {defect.thing} is extra . remove {seen} at {cell} ."
        case EditKind.RECOLOR:
            return f"{seen} is wrong color . put {edit.to} {seen.shape} at {cell} ."
        case EditKind.RESHAPE:
            return f"{seen} is wrong shape . put {seen.color} {edit.to} at {cell} ."
    broken = f"{defect.thing} is not {defect.relation} {defect.other}"
    return f"{broken} . {room}remove {seen} at {cell} . put {seen} at {edit.to} ."


@dataclass(frozen=True)
class PlacedParts:
    """Where the parts of a reflection stand in its text, in characters. `sight` has the begin and the end of each
    clause of the description. `edits` has the begin and the end of each sentence about a defect, with the edit that it
    asks for. `rest` is the begin of what follows: the end of the text, or a part that is outside of the grammar."""

    sight: list[tuple[int, int]]
    edits: list[tuple[int, int, Edit]]
    rest: int


def placed_parts(text: str) -> PlacedParts | None:
    """Return where the parts of a reflection stand. Return None if the text does not begin as a reflection does."""
    begin = "<think> "
    if not text.startswith(begin):
        return None
    at = len(begin)
    described = _SIGHT.match(text[at:])
    sight = [(at + first, at + last) for first, last in clauses(described.group())] if described else []
    at += described.end() if described else 0
    edits = []
    while found := _sentence_at(text[at:]):
        kind, sentence = found
        edits.append((at, at + sentence.end(), _edit(kind, sentence.groupdict())))
        at += sentence.end()
    return PlacedParts(sight, edits, at)


def clauses(description: str) -> list[tuple[int, int]]:
    """Return the begin and the end of each clause of a description. A clause ends with a comma or a full stop."""
    ends = [found.end() for found in re.finditer(r" [,.](?: |$)", description)]
    return list(zip([0, *ends], ends))


def _sentence_at(text: str) -> tuple[DefectKind, re.Match[str]] | None:
    """Return the kind and the match of the sentence about a defect with which the text begins, or None."""
    return next(((kind, found) for kind, pattern in _PATTERNS.items() if (found := pattern.match(text))), None)


def is_stop(text: str) -> bool:
    """Return whether a reflection says that nothing is to be changed."""
    return _statements(text) == f"{NOTHING} "


def _statements(text: str) -> str | None:
    """Return the sentences of a reflection about defects and edits, without the description of the picture before them.
    Each sentence is followed by a blank. Return None if the text is not a reflection."""
    words = " ".join(text.split())
    if not (words.startswith("<think> ") and words.endswith(" </think>")):
        return None
    said = words.removeprefix("<think> ").removesuffix("</think>")
    sight = _SIGHT.match(said)
    return said[sight.end() :] if sight else said


def parse_reflection(text: str) -> ParsedReflection | None:
    """Return the reflection as data. Return None if the text does not completely follow the teacher's grammar. The
    description of the picture is not checked and may be missing."""
    rest = _statements(text)
    if rest is None:
        return None
    if is_stop(text):
        return ParsedReflection(True)
    edits = []
    while rest:
        matching = _sentence_at(rest)
        if matching is None:
            return None
        kind, found = matching
        edits.append(_edit(kind, found.groupdict()))
        rest = rest[found.end() :]
    return ParsedReflection(False, tuple(edits), tuple(edit.defect for edit in edits)) if edits else None


@dataclass(frozen=True)
class Sighting:
    """A statement of a reflection about what its picture shows. It says that in each of the grid cells `cells` there is
    an object that `thing` describes. If `thing` is None, it says instead that the content of these cells cannot be
    recognised. If `all_of_them` is True, it also says that no such object is in any other cell."""

    thing: Thing | None
    cells: tuple[str, ...]
    all_of_them: bool
    number: int
    """The number of objects that the statement says it sees. It should be the number of cells."""


def sightings(text: str) -> list[Sighting]:
    """Return the statements of a reflection about what its picture shows. In a reflection, they stand before the
    defects. The list is empty if the reflection has no such statements, or if it does not follow the teacher's
    grammar."""
    found = _SIGHT.match(" ".join(text.split()).removeprefix("<think> "))
    if found is None:
        return []
    said = found.group()
    wanted, *others = re.findall(r"(?:i see|also) ([^.]*) \. ?", said)
    seen = [_sighting(_WANTED, part, all_of_them=True) for part in wanted.split(" , ")]
    return seen + [_sighting(_OTHER, part, all_of_them=False) for part in (others[0].split(" , ") if others else [])]


_WANTED = re.compile(
    rf"(?:(?:{_NUMBER}) )?(?P<thing>{_THING})(?: at(?P<cells>(?: (?:{_CELL}))+))? : (?P<number>{_NUMBER})\b.*"
)
_OTHER = re.compile(rf"(?P<thing>{_COLORED}|{BLUR}) at(?P<cells> (?:{_CELL}))")


def _sighting(form: re.Pattern[str], words: str, all_of_them: bool) -> Sighting:
    part = form.fullmatch(words)
    assert part is not None, "the words have matched the grammar of the whole description before"
    thing = None if part["thing"] == BLUR else _thing(part["thing"])
    number = part.groupdict().get("number")
    return Sighting(
        thing, tuple((part["cells"] or "").split()), all_of_them, 1 if number is None else NUMBERS.index(number)
    )


def _thing(words: str) -> Thing:
    *color, shape = words.split()
    return Thing(shape, color[0] if color else None)


def _edit(kind: DefectKind, part: dict[str, str]) -> Edit:
    seen, cell, to = _thing(part["seen"]), part["cell"], part.get("to", "")
    match kind:
        case DefectKind.MISSING:
            return Edit(EditKind.ADD, seen, cell, None, Defect(kind, _thing(part["thing"])))
        case DefectKind.EXTRA:
            return Edit(EditKind.REMOVE, seen, cell, None, Defect(kind, _thing(part["thing"]), cell=cell))
        case DefectKind.COLOR:
            return Edit(EditKind.RECOLOR, seen, cell, to, Defect(kind, seen, Thing(seen.shape, to), cell=cell))
        case DefectKind.SHAPE:
            return Edit(EditKind.RESHAPE, seen, cell, to, Defect(kind, seen, Thing(to, seen.color), cell=cell))
    defect = Defect(kind, _thing(part["thing"]), None, part["relation"], _thing(part["other"]), cell)
    return Edit(EditKind.MOVE, seen, cell, to, defect)


def reflection_correct(parsed: ParsedReflection | None, reading: PictureReading, metadata: dict) -> bool:
    """Return whether a reflection is true of the picture. A text that says "nothing to change" is true if the picture
    is right. Any other reflection states defects. It is true if the picture is wrong and the checker finds all these
    defects. A defect that is stated twice must be found twice. It is also true to call an object missing if the object
    is there in a wrong colour or shape. Cells and edits are not checked. The result is False if `parsed` is None."""
    verdict = judge(reading, metadata)
    if parsed is None or parsed.stop or verdict.correct:
        return parsed is not None and parsed.stop and verdict.correct
    return true_statements(parsed.defects, verdict.defects) == len(parsed.defects)


def true_statements(stated: tuple[Defect, ...], there: tuple[Defect, ...]) -> int:
    """Return how many of the defects that a reflection states (`stated`) are really in the picture. `there` has all
    defects that the checker found in the picture, and each of them makes at most one statement true. It is also true to
    call an object missing if it is there in a wrong colour or shape. Grid cells are not compared."""
    left, true = list(there), 0
    for defect in stated:
        same = [other for other in left if claim(other) == claim(defect)]
        lacking = [other for other in left if defect.kind is DefectKind.MISSING and other.want == defect.thing]
        if same or lacking:
            left.remove((same or lacking)[0])
            true += 1
    return true


def claim(defect: Defect) -> tuple:
    """Return a tuple by which a defect can be compared with other defects. It has the fields of the defect without the
    grid cell. For a defect of the kind shape, the tuple has only the shape of `want` (the object that should be there),
    not its colour."""
    kind, thing, want, relation, other = defect.claim()
    return kind, thing, want.shape if kind is DefectKind.SHAPE else want, relation, other

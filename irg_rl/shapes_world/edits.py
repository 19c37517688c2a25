"""Plans edits that repair the defects of a picture, and applies these edits to its pixels.

An edit repaints one or two whole cells of the picture. The pixels of all other cells stay the same.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, combinations, permutations, product
from types import MappingProxyType

import numpy as np

from irg_rl.shapes_world.check import Defect, DefectKind, as_thing, judge_demand
from irg_rl.shapes_world.constraints import MIRROR, Demand, Thing, in_order, parse_metadata
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.render import cell_slices, render_cell
from irg_rl.shapes_world.scene import CELLS, COLORS, Object, stands
from irg_rl.shapes_world.scenes import random_object

LONGEST_CHAIN = 3
"""Largest number of objects that may be moved in one chain. In a chain, several objects move one after the other, and
an object may go to a cell that an earlier one has left."""


class EditKind(StrEnum):
    ADD = "add"
    REMOVE = "remove"
    RECOLOR = "recolor"
    RESHAPE = "reshape"
    MOVE = "move"


@dataclass(frozen=True)
class Room:
    """The grid cells into which an object may be put. `bounds` has the relations that the prompt demands of this
    object. Each is a tuple (relation, other kind of object, cells of the objects of that kind). `cells` are the cells
    that satisfy all these relations."""

    bounds: tuple[tuple[str, Thing, tuple[str, ...]], ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """One repair of a picture. Its kind is add, remove, recolor, reshape or move.

    `thing` is the object to change, described by shape and colour, and `cell` is its grid cell. If the kind is add,
    `thing` is the new object and `cell` is the cell that it is put into. `to` is the new colour (kind recolor), the new
    shape (reshape) or the new cell (move). `defect` is the defect that the edit repairs. For the kinds add and move,
    `room` has the cells that the object could be put into. If no relation limits these cells, `room` is None.
    """

    kind: EditKind
    thing: Thing
    cell: str
    to: str | None = None
    defect: Defect | None = None
    room: Room | None = field(default=None, compare=False)


def plan_edits(
    reading: PictureReading,
    metadata: dict,
    rng: random.Random,
    max_fixes: int | None = 2,
    overlooked: Mapping[str, float] = MappingProxyType({}),
) -> list[Edit]:
    """Return a list with as few edits as possible that repair the first `max_fixes` defects of a picture. `reading` has
    the objects that were found in the picture, and `metadata` says what the prompt asks for. The list is empty if the
    picture is right.

    If `max_fixes` is None, all defects are repaired. If a relation does not hold after these repairs, objects are also
    moved. So all relations hold afterwards, and the edited picture is right.

    If possible, a new object goes into a grid cell where its relations hold. Of these cells, unreadable cells come
    first, and then empty cells. If several cells are equally good, the object takes the first one, row by row. (With
    randomly chosen cells, a model did not learn which cells are free, and it put two of three objects on top of
    others.)

    `overlooked` maps a kind of defect to the share of such defects that are not repaired. Raises ValueError if
    `overlooked` is not empty and `max_fixes` is None.
    """
    if overlooked and max_fixes is None:
        raise ValueError(f"overlooked {dict(overlooked)} leaves defects, max_fixes None mends all: give one of them")
    demand = parse_metadata(metadata)
    defects = judge_demand(reading.objects, demand).defects
    named = defects if max_fixes is None else defects[:max_fixes]
    if overlooked:
        named = [defect for defect in named if rng.random() >= overlooked.get(defect.kind, 0.0)]
    board = {seen.cell: seen for seen in reading.objects}
    unclear = list(reading.unclear)
    edits = []
    for defect in named:
        if defect.kind is DefectKind.MISSING:
            edits.append(_plan_add(defect, board, unclear, demand, rng))
        elif defect.kind is not DefectKind.RELATION:
            edits.append(_plan_change(defect, board))
    if max_fixes is None:
        return edits + _plan_moves(board, demand)
    broken = [defect for defect in named if defect.kind is DefectKind.RELATION]
    moves = _plan_moves(board, demand) if broken else []
    return edits + _about(moves, broken)


def apply_edits(pixels: np.ndarray, reading: PictureReading, edits: list[Edit], rng: random.Random) -> np.ndarray:
    """Return the picture after the edits, as uint8 [24, 24, 3]. `pixels` is the picture before them, and `reading`
    lists the objects that were found in it. Only the cells named by the edits change. A new object gets a random size
    and position in its cell. A recoloured object changes only its colour, a reshaped object only its shape, and a moved
    object only its cell. Raises ValueError if there is no object in the cell that an edit changes."""
    edited = pixels.copy()
    board = {seen.cell: seen for seen in reading.objects}

    def paint(cell: str, content: Object | None) -> None:
        edited[cell_slices(cell)] = render_cell(reading.background, content)
        board.pop(cell, None)
        if content is not None:
            board[cell] = content

    for edit in edits:
        if edit.kind is EditKind.ADD:
            paint(edit.cell, random_object(edit.thing, edit.cell, rng))
            continue
        if edit.cell not in board:
            raise ValueError(f"cannot {edit.kind} at {edit.cell}: nothing readable stands there")
        seen = board[edit.cell]
        match edit.kind:
            case EditKind.REMOVE:
                paint(edit.cell, None)
            case EditKind.RECOLOR:
                paint(edit.cell, seen._replace(color=edit.to))
            case EditKind.RESHAPE:
                paint(edit.cell, seen._replace(shape=edit.to))
            case EditKind.MOVE:
                assert edit.to is not None, "a move names the cell that it goes to"
                paint(edit.cell, None)
                paint(edit.to, seen._replace(cell=edit.to))
    return edited


def _plan_change(defect: Defect, board: dict[str, Object]) -> Edit:
    assert defect.cell is not None, "only a missing thing has no cell, and it is added, not changed"
    seen = board.pop(defect.cell)
    if defect.kind is DefectKind.EXTRA:
        return Edit(EditKind.REMOVE, as_thing(seen), seen.cell, defect=defect)
    assert defect.want is not None, "a wrong colour or shape says what the object should have been"
    if defect.kind is DefectKind.COLOR:
        board[seen.cell] = seen._replace(color=defect.want.color)
        return Edit(EditKind.RECOLOR, as_thing(seen), seen.cell, defect.want.color, defect)
    board[seen.cell] = seen._replace(shape=defect.want.shape)
    return Edit(EditKind.RESHAPE, as_thing(seen), seen.cell, defect.want.shape, defect)


def _plan_add(defect: Defect, board: dict, unclear: list[str], demand: Demand, rng: random.Random) -> Edit:
    color = defect.thing.color or rng.choice(tuple(COLORS))
    new = Object(defect.thing.shape, color, "small", "")
    empty = [cell for cell in CELLS if cell not in board and cell not in unclear]
    groups = [group for group in (unclear, empty, _tolerated(board, demand)) if group]
    fitting = [[c for c in group if not _broken([*board.values(), new._replace(cell=c)], demand)] for group in groups]
    room = next((group for group in fitting if group), [])
    cell = room[0] if room else groups[0][0]
    if cell in unclear:
        unclear.remove(cell)
    told = _room(as_thing(new), board.values(), demand, room)
    board[cell] = new._replace(cell=cell)
    return Edit(EditKind.ADD, as_thing(new), cell, None, defect, told)


def _room(thing: Thing, others: Iterable[Object], demand: Demand, cells: Sequence[str]) -> Room | None:
    """Return a `Room` for an object that fits `thing`. It has the given cells, and the relations of this object to
    other objects that the prompt asks for. In each relation, `thing` comes first: if the prompt says "bar above ring",
    the relation for a ring is "below bar". Return None if the prompt asks for no relation of this object."""
    bounds = []
    for first, name, second in demand.relations:
        one, other = demand.includes[first][0], demand.includes[second][0]
        sides = [(one, name, other), (other, MIRROR[name], one)]
        for own, relation, foreign in sides:
            places = tuple(seen.cell for seen in in_order(others) if foreign.fits(seen))
            if places and own.shape == thing.shape and own.color in (None, thing.color):
                bounds.append((relation, foreign, places))
    return Room(tuple(bounds), tuple(cells)) if bounds else None


def _tolerated(board: dict[str, Object], demand: Demand) -> list[str]:
    """Return the cells of objects that the prompt does not ask for. An edit may paint over these objects if no other
    cell is suitable."""
    return [cell for cell, seen in board.items() if not any(thing.fits(seen) for thing, _ in demand.includes)]


def _broken(objects: list[Object], demand: Demand) -> list[Defect]:
    """Return a defect for each relation of the prompt that some pair of objects breaks. A relation counts as kept if
    the picture has no pair of objects that it is about. The defects are in the order of the metadata."""
    broken = []
    for first, name, second in demand.relations:
        one, other = demand.includes[first][0], demand.includes[second][0]
        ones, others = ([seen for seen in objects if thing.fits(seen)] for thing in (one, other))
        if not all(stands(a.cell, name, b.cell) for a in ones for b in others):
            broken.append(Defect(DefectKind.RELATION, one, None, name, other))
    return broken


def _plan_moves(board: dict[str, Object], demand: Demand) -> list[Edit]:
    """Return the fewest moves of objects after which all relations of the prompt hold. If there are several solutions,
    return the first that the search finds. The function also changes `board` to the state after the moves."""
    broken = _broken(list(board.values()), demand)
    if not broken:
        return []
    ends = {demand.includes[index][0] for first, _, second in demand.relations for index in (first, second)}
    movable = [cell for cell, seen in board.items() if any(thing.fits(seen) for thing in ends)]
    free = [cell for cell in CELLS if cell not in board]
    ways = chain(_ways(movable, free), _tight_ways(movable, [*free, *_tolerated(board, demand)]))
    found = next(
        (option for options in ways for option in options if not _broken(_moved(board, *option), demand)),
        ((), ()),
    )
    edits = []
    after = {seen.cell: seen for seen in _moved(board, *found)}
    for cell, target in zip(*found):
        others = [seen for place, seen in after.items() if place != target]
        open_cells = [c for c in (*free, target) if c == target or c not in after]
        fitting = [c for c in CELLS if c in open_cells and not _broken([*others, board[cell]._replace(cell=c)], demand)]
        room = _room(as_thing(board[cell]), others, demand, fitting)
        seen = board.pop(cell)
        board[target] = seen._replace(cell=target)
        own = [
            defect for defect in broken
            if any(end is not None and end.fits(seen) for end in (defect.thing, defect.other))
        ]  # fmt: skip
        told = {_claim(edit) for edit in edits}
        reason = next((defect for defect in own if defect.claim() not in told), own[0] if own else broken[0])
        edits.append(Edit(EditKind.MOVE, as_thing(seen), cell, target, replace(reason, cell=cell), room))
    return edits


Moves = tuple[tuple[str, ...], tuple[str, ...]]
"""Two tuples of equal length: the cells that objects leave, and the cells that the same objects enter. The order is
that of the moves."""


def _ways(movable: list[str], free: list[str]) -> Iterator[Iterable[Moves]]:
    """Yield possible moves of objects from the cells `movable` into the cells `free`: first all single moves, then all
    pairs of moves, and so on."""
    for number in range(1, len(movable) + 1):
        yield product(combinations(movable, number), permutations(free, number))


def _tight_ways(movable: list[str], free: list[str]) -> Iterator[Iterable[Moves]]:
    """Yield possible moves of objects from the cells `movable` into the cells `free` and into cells that earlier moves
    have left. Such moves are needed for pictures with too few free cells. At most LONGEST_CHAIN objects are moved."""
    for number in range(1, LONGEST_CHAIN + 1):
        yield (
            (cells, targets)
            for cells in permutations(movable, number)
            for targets in permutations((*free, *cells), number)
            if all(target not in cells[index:] for index, target in enumerate(targets))
        )


def _moved(board: dict[str, Object], cells: tuple[str, ...], targets: tuple[str, ...]) -> list[Object]:
    places = dict(zip(cells, targets))
    return [seen._replace(cell=places.get(cell, cell)) for cell, seen in board.items()]


def _claim(edit: Edit) -> tuple:
    assert edit.defect is not None, "a planned edit says which defect it repairs"
    return edit.defect.claim()


def _about(moves: list[Edit], broken: list[Defect]) -> list[Edit]:
    """Return one move for each defect in `broken`: the first move that repairs this relation. There is one special
    case. If an object enters a cell that another object leaves, the moves depend on each other, and their order is
    kept. Then the result is the beginning of `moves`: at most as many moves as `broken` has defects. It ends before the
    first move that repairs the same relation as an earlier move."""
    if {move.cell for move in moves} & {move.to for move in moves}:
        told = [_claim(move) for move in moves]
        repeated = [index for index, claim in enumerate(told) if claim in told[:index]]
        return moves[: min([len(broken), *repeated])]
    first = {_claim(move): move for move in reversed(moves)}
    return [first[defect.claim()] for defect in broken if defect.claim() in first]

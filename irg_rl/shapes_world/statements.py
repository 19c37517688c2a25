"""Splits a reflection into its statements, and says which of them are true of the picture. RL trains every word of a
reflection by the statement that it belongs to (irg_rl.credit.statements)."""

from collections import Counter

from irg_rl.shapes_world.check import DefectKind, judge_demand
from irg_rl.shapes_world.constraints import Demand, parse_metadata
from irg_rl.shapes_world.edits import Edit, EditKind
from irg_rl.shapes_world.following import EMPTY, MOST_NAMED, asked_contents
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import Object
from irg_rl.shapes_world.teacher import NOTHING, clauses, placed_parts, sight_text
from irg_rl.trajectory import Statement

END = "</think>"


def statements(text: str, reading: PictureReading, metadata: dict) -> list[Statement]:
    """Return the statements of a reflection in their order, each with the score 1 or 0. `reading` has the objects that
    were found in the picture, and `metadata` says what the prompt asks for.

    * A clause of the description is true if the teacher would say it of the picture, and as often as the teacher.
    * A defect with its edit is one statement. It is true if the picture has fewer defects after the edit than before.
      The edits of a reflection are made one after the other. So where two objects must move, the first move is false.
    * "nothing to change" is true if the picture is right.
    * The end of a reflection that asks for edits is true if nothing is left out: no defect is left, or as many
      edits have helped as the picture has defects, or MOST_NAMED of them.

    A part that does not follow the grammar of reflections is false. Raises ValueError if the metadata ask for something
    that the shapes world does not have.
    """
    parts = placed_parts(text)
    if parts is None:
        return [Statement(0, len(text), 0.0)]
    seen = sight_text(reading, metadata)
    true, found = Counter(_words(seen[begin:end]) for begin, end in clauses(seen)), []
    for begin, end in parts.sight:
        words = _words(text[begin:end])
        found.append(Statement(begin, end, float(true[words] > 0)))
        true[words] -= 1
    board, demand = {one.cell: one for one in reading.objects}, parse_metadata(metadata)
    there = left = _defects(board, demand)
    helpful = 0
    for begin, end, edit in parts.edits:
        left, before = _defects(_edit(board, edit), demand), left
        helpful += left < before
        found.append(Statement(begin, end, float(left < before)))
    rest = " ".join(text[parts.rest :].split())
    if parts.edits:
        ends_well = rest == END and (not any(left) or helpful >= min(sum(there), MOST_NAMED))
    else:
        ends_well = rest == f"{NOTHING} {END}" and not any(there)
    return [*found, Statement(parts.rest, len(text), float(ends_well))]


def _words(clause: str) -> str:
    return clause.strip(" ,.")


def _defects(board: dict[str, Object], demand: Demand) -> tuple[int, int]:
    """Return how many defects a picture has, in a form that can be compared: first those of single objects, then those
    of relations. A mended object can show that a relation does not hold, which could not be seen before."""
    defects = judge_demand(tuple(board.values()), demand).defects
    relations = [defect.kind is DefectKind.RELATION for defect in defects]
    return relations.count(False), relations.count(True)


def _edit(board: dict[str, Object], edit: Edit) -> dict[str, Object]:
    """Make an edit on the objects of a picture, which are given by their cells. An edit of an object that is not there
    changes nothing."""
    if edit.kind is EditKind.ADD or (edit.cell in board and edit.thing.fits(board[edit.cell])):
        for cell, content in asked_contents(edit):
            board.pop(cell, None)
            if content != EMPTY:
                shape, color = content
                board[cell] = Object(shape, color or "", "small", cell)
    return board

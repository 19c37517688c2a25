"""Graded scores for RL: how true a reflection (the model's text about the errors of its picture) is, and how well the
next picture follows it.

The scores are graded because RL compares several samples of one prompt. If a reflection were only right or wrong, most
of these samples would have equal scores.
"""

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.edits import Edit, EditKind
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import CELLS
from irg_rl.shapes_world.teacher import Sighting, parse_reflection, sightings, true_statements

MOST_NAMED = 2
"""Largest number of defects that the teacher names in one reflection. A reflection that names this many real defects
gets no lower score if the picture has further defects."""


def reflection_truth(text: str, reading: PictureReading, metadata: dict) -> float:
    """Return how true a reflection is of its picture, in [0, 1].

    A text that does not follow the grammar of reflections scores 0. A reflection that says "nothing to change" scores 1
    if the picture is right and 0 if it is wrong. A reflection that names defects scores 0 if the picture is right. If
    the picture is wrong, such a reflection gets the F1 score of the stated defects compared with the real defects. For
    this F1 score, a text that names MOST_NAMED real defects has the recall 1, even if the picture has more defects.
    Raises ValueError if the metadata ask for something that the shapes world does not have.
    """
    parsed, verdict = parse_reflection(text), judge(reading, metadata)
    if parsed is None:
        return 0.0
    if parsed.stop or verdict.correct:
        return float(parsed.stop and verdict.correct)
    true = true_statements(parsed.defects, verdict.defects)
    precision = true / len(parsed.defects)
    recall = min(true / min(len(verdict.defects), MOST_NAMED), 1.0)
    return 0.0 if not true else 2 * precision * recall / (precision + recall)


def statements_true(text: str, reading: PictureReading) -> float:
    """Return which share of the statements in a reflection is true of its picture, in [0, 1]. A statement says in which
    cells of the picture there is an object, or which cells cannot be recognised. The defects that the reflection names
    and the edits that it asks for are not counted. The picture alone decides whether a statement is true. So the prompt
    is not needed, and a judge model can be asked the same question about any text. A text without such statements
    scores 0."""
    holds = [_holds(statement, reading) for statement in sightings(text)]
    return sum(holds) / len(holds) if holds else 0.0


def _holds(statement: Sighting, reading: PictureReading) -> bool:
    if statement.number != len(statement.cells):
        return False
    if statement.thing is None:
        return set(statement.cells) <= set(reading.unclear)
    there = {seen.cell for seen in reading.objects if statement.thing.fits(seen)}
    return set(statement.cells) == there if statement.all_of_them else set(statement.cells) <= there


def following(text: str, before: PictureReading, after: PictureReading) -> float:
    """Return how well the picture `after` follows the edits that the reflection `text` asks for on the picture
    `before`, in [0, 1]. The result is the share of requested edits that are done, times the share of all other grid
    cells that stay the same. If the text asks for no edits, the result is the share of all cells that stay the same.

    Among the other cells, those that cannot be read in `before` are ignored. A cell counts as changed if it can be read
    in `before`, but not in `after`. If no other cell can be read in `before`, the result is 0, because nothing shows
    that the picture was kept.
    """
    parsed = parse_reflection(text)
    edits = () if parsed is None else parsed.edits
    was, now = _contents(before), _contents(after)
    done = [all(now[cell] == content for cell, content in asked_contents(edit)) for edit in edits]
    touched = {cell for edit in edits for cell, _ in asked_contents(edit)}
    others = [cell for cell in CELLS if cell not in touched]
    kept = [now[cell] == was[cell] for cell in others if was[cell] != UNCLEAR]
    return (sum(done) / len(done) if done else 1.0) * (sum(kept) / len(kept) if kept else float(not others))


Content = tuple[str, str | None] | str
"""What is in a cell: (shape, colour), EMPTY, or UNCLEAR if it cannot be read. The size of an object and its exact
position in the cell are ignored."""
EMPTY = "empty"
UNCLEAR = "unclear"


def _contents(reading: PictureReading) -> dict[str, Content]:
    found: dict[str, Content] = {cell: UNCLEAR if cell in reading.unclear else EMPTY for cell in CELLS}
    found.update((seen.cell, (seen.shape, seen.color)) for seen in reading.objects)
    return found


def asked_contents(edit: Edit) -> list[tuple[str, Content]]:
    """Return a pair (cell, content) for each cell that an edit changes. The content is what the cell should hold after
    the edit."""
    thing: Content = (edit.thing.shape, edit.thing.color)
    match edit.kind:
        case EditKind.ADD:
            return [(edit.cell, thing)]
        case EditKind.REMOVE:
            return [(edit.cell, EMPTY)]
        case EditKind.RECOLOR:
            return [(edit.cell, (edit.thing.shape, edit.to))]
        case EditKind.RESHAPE:
            return [(edit.cell, (edit.to or "", edit.thing.color))]
        case EditKind.MOVE:
            return [(edit.cell, EMPTY), (edit.to or "", thing)]

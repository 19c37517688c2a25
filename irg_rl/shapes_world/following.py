"""Graded scores for RL: how true a reflection is of its picture, and how well the next picture follows the reflection.
With only right or wrong, most siblings would have equal scores.
"""

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.edits import Edit, EditKind
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import CELLS
from irg_rl.shapes_world.teacher import parse_reflection, true_statements

MOST_NAMED = 2
"""Most defects that the teacher names in one reflection. A reflection that leaves out more loses no score."""


def reflection_truth(text: str, reading: PictureReading, metadata: dict) -> float:
    """Truth of a reflection in [0, 1].

    0 for a text that is not a complete reflection. A stop has 1 on a right picture and 0 on a wrong one. Every other
    reflection has the F1 of its stated defects against the real ones, of which MOST_NAMED must be stated.
    ValueError if the metadata asks for something that this world does not have.
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


def following(text: str, before: PictureReading, after: PictureReading) -> float:
    """How well `after` follows the edits that a reflection on `before` asks for, in [0, 1]: the share of edits that are
    done, times the share of other cells that stay the same. A text without edits asks to keep all cells."""
    parsed = parse_reflection(text)
    edits = () if parsed is None else parsed.edits
    was, now = _contents(before), _contents(after)
    done = [all(now[cell] == content for cell, content in _asked(edit)) for edit in edits]
    touched = {cell for edit in edits for cell, _ in _asked(edit)}
    kept = [now[cell] == was[cell] for cell in CELLS if cell not in touched]
    return (sum(done) / len(done) if done else 1.0) * (sum(kept) / len(kept) if kept else 1.0)


Content = tuple[str, str | None] | str
"""Content of a cell: (shape, colour), "empty" or "unclear". Size and exact position are left out."""


def _contents(reading: PictureReading) -> dict[str, Content]:
    found: dict[str, Content] = {cell: "unclear" if cell in reading.unclear else "empty" for cell in CELLS}
    found.update((seen.cell, (seen.shape, seen.color)) for seen in reading.objects)
    return found


def _asked(edit: Edit) -> list[tuple[str, Content]]:
    """The cells that an edit names, and their wanted contents."""
    thing: Content = (edit.thing.shape, edit.thing.color)
    match edit.kind:
        case EditKind.ADD:
            return [(edit.cell, thing)]
        case EditKind.REMOVE:
            return [(edit.cell, "empty")]
        case EditKind.RECOLOR:
            return [(edit.cell, (edit.thing.shape, edit.to))]
        case EditKind.RESHAPE:
            return [(edit.cell, (edit.to or "", edit.thing.color))]
        case EditKind.MOVE:
            return [(edit.cell, "empty"), (edit.to or "", thing)]

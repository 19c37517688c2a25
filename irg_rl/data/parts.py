"""The parts of a data set. A part is a block of prompts that are worked on together. It has one parquet file per mode,
and a record of what came of its prompts. A part without open questions is never worked on again."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from irg_rl.data.candidates import IMPROVED, Candidate, Steps
from irg_rl.data.rows import columns_of, rows_of, thinned
from irg_rl.data.sources import LeftOut
from irg_rl.data.writing import Writing
from irg_rl.errors import InputError
from irg_rl.learning_modes import write_columns
from irg_rl.report.strips import png, strip
from irg_rl.suites.trees import write_whole
from irg_rl.text_in import read_json

PARTS, SAMPLES = "parts", "samples"
SAMPLES_PER_PART = 2
LONGEST_SHOWN = 600
"""Number of characters of a text that the data card shows."""
STOP_ROW = "row that asks for no change"
AT_ONCE, MENDED, AGAIN, LEFT_OUT = "used at once", "used after mending", "used after asking again", "left out"
"""What can come of a text of the teacher."""


@dataclass
class PartRecord:
    """What came of the prompts of one part.

    counts: name -> number. Names that begin with `text/` count texts of the teacher, and `flaw/` counts its mistakes.
    rows: mode -> number of rows.
    left_out: what is not in the data, and why.
    waiting: what the next build tries again. If it is empty, the part is finished.
    samples: texts and the name of a picture, for the data card.
    images: digest of a first image -> id of its prompt.
    """

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    waiting: list[LeftOut] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return not self.waiting


def write_part(out: Path, number: int, candidates: Sequence[Candidate], steps: Steps) -> PartRecord:
    """Write the rows of a part and its record, and return the record. The record is written last, so a part with a
    record is complete."""
    recipe = steps.recipe
    made = [row for one in candidates for row in rows_of(one, steps)]
    rows, over = thinned(made, recipe.rows.stop_share, recipe.seed)
    record = PartRecord(number, dict(_counts(candidates)), dict(Counter(row.mode for row in rows)))
    record.left_out = [left for one in candidates for left in one.left_out]
    record.left_out += [
        LeftOut(row.origin["prompt_id"], STOP_ROW, "more than rows.stop_share", row.mode) for row in over
    ]
    record.waiting = [left for one in candidates for left in (*one.waiting, *one.missing)]
    record.samples = _samples(out, candidates)
    record.images = {one.first.digest: one.prompt.id for one in candidates if one.first is not None}
    for mode in recipe.rows.modes:
        path = out / mode / f"part-{number:05d}.parquet"
        if mine := [row for row in rows if row.mode == mode]:
            write_columns(path, columns_of(mine))
        else:
            path.unlink(missing_ok=True)
    write_whole(_path(out, number), json.dumps(asdict(record), indent=1).encode())
    return record


def read_part(out: Path, number: int) -> PartRecord | None:
    """Return the record of a part, or None if it was never written. Raises InputError if it has another form."""
    path = _path(out, number)
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        lists = {name: [LeftOut(**entry) for entry in content[name]] for name in ("left_out", "waiting")}
        return PartRecord(**{**content, **lists})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no record of `irg-rl data build` ({error!r}): remove it") from error


def has_all_files(out: Path, record: PartRecord) -> bool:
    """Return whether no parquet file of the part was removed."""
    return all((out / mode / f"part-{record.number:05d}.parquet").is_file() for mode in record.rows)


def summed(records: Iterable[PartRecord]) -> PartRecord:
    """Return one record with the sums and the lists of all records. Its number is -1."""
    total = PartRecord(-1)
    counts, rows = Counter[str](), Counter[str]()
    for record in records:
        counts.update(record.counts)
        rows.update(record.rows)
        total.left_out += record.left_out
        total.waiting += record.waiting
        total.samples += record.samples
        total.images |= record.images
    total.counts, total.rows = dict(counts), dict(rows)
    return total


def _path(out: Path, number: int) -> Path:
    return out / PARTS / f"{number:05d}.json"


def _counts(candidates: Sequence[Candidate]) -> Counter[str]:
    counts = Counter[str]()
    for one in candidates:
        counts["prompts"] += 1
        counts["first images"] += one.first is not None
        counts["improved images proposed"] += "prefers" in one.scores or _is_decided(one)
        counts["improved images kept"] += one.is_kept
        for writing in one.writings:
            counts[f"text/{writing.about}/{_outcome(writing)}"] += 1
            counts[f"text/{writing.about}/answers"] += len(writing.flaws) + (writing.text is not None)
            for flaw in writing.flaws:
                counts[f"flaw/{writing.about}/{flaw}"] += 1
            for repair in writing.repairs:
                counts[f"repair/{writing.about}/{repair}"] += 1
    return counts


def _is_decided(one: Candidate) -> bool:
    return any(left.what == IMPROVED for left in one.left_out)


def _outcome(writing: Writing) -> str:
    if writing.text is None:
        return LEFT_OUT
    if writing.flaws:
        return AGAIN
    return MENDED if writing.repairs else AT_ONCE


def _samples(out: Path, candidates: Sequence[Candidate]) -> list[dict[str, str]]:
    """Write pictures of the most instructive candidates, and return their texts for the data card."""
    shown = [one for one in candidates if one.first is not None and one.reflection is not None]
    shown.sort(key=lambda one: not one.is_kept)
    samples = []
    for one in shown[:SAMPLES_PER_PART]:
        assert one.first is not None and one.reflection is not None
        images = [one.first.pixels] + ([one.improved.pixels] if one.improved is not None and one.is_kept else [])
        name = f"{SAMPLES}/{one.asked.number:06d}.png"
        write_whole(out / name, png(strip(images)))
        samples.append({
            "picture": name, "prompt": one.prompt.text, "plan": (one.plan or "")[:LONGEST_SHOWN],
            "reflection": one.reflection[:LONGEST_SHOWN],
        })  # fmt: skip
    return samples

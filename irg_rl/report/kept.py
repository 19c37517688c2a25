"""Stores all texts and images of an evaluation in one parquet file, `samples/NAME.parquet` of a run, for `irg-rl view`.

The file has one row per trajectory, arm and turn. An arm is the model's own refinement (`real`) or a control. Row k of
each arm belongs to the same prompt and starts from the same first image. The number of bytes has a limit: then only the
first trajectories are stored, the same ones of every arm. Nothing is pickled, and reading needs no torch.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from irg_rl.report.strips import png

if TYPE_CHECKING:
    from irg_rl.report.samples import SampledTrajectory  # needs torch, which takes seconds to import

ENDING = ".parquet"
ROWS_PER_GROUP = 64
"""Number of rows that are read together. A page shows a few trajectories, and reads only their parts of the file."""
_SCHEMA = pa.schema(
    [
        ("row", pa.int32()), ("arm", pa.string()), ("turn", pa.int32()), ("prompt_id", pa.string()),
        ("prompt", pa.string()), ("task", pa.string()), ("stopped", pa.bool_()), ("text", pa.string()),
        ("image", pa.binary()), ("correct", pa.bool_()), ("score", pa.float64()), ("rewards", pa.string()),
    ]
)  # fmt: skip


def kept_path(run: Path, evaluation: str) -> Path:
    """Return the path of the file for an evaluation of a run."""
    return run / "samples" / f"{evaluation}{ENDING}"


def save_kept(
    path: Path, count: int, arms: Mapping[str, Callable[[int], "SampledTrajectory"]], most_bytes: int
) -> int:
    """Write trajectories of all arms of an evaluation, and return how many of each arm were written. Each arm has
    `count` trajectories. `arms` maps the name of an arm to a function that returns its trajectory with a given number.
    Trajectories are written in order, as long as their images and texts together have at most `most_bytes` bytes. The
    file appears complete or not at all. If nothing is kept, there is no file."""
    rows: list[dict[str, Any]] = []
    kept, size = 0, 0
    for number in range(count):
        entries = [entry for arm, sample in arms.items() for entry in _entries(number, arm, sample(number))]
        size += sum(len(entry["image"] or b"") + len(entry["text"].encode()) for entry in entries)
        if size > most_bytes:
            break
        rows += entries
        kept += 1
    path.unlink(missing_ok=True)
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".tmp")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), aside, row_group_size=ROWS_PER_GROUP)
        aside.replace(path)
    return kept


def load_kept(path: Path, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the entries of some trajectories, as one dict per arm and turn. `rows` are the numbers of the
    trajectories. `columns` are the names of the fields to read; None reads all. The field `rewards` is a dict from
    scorer to score. Raises ValueError (also as pyarrow's ArrowInvalid) if the file is not such a table."""
    table = pq.read_table(path, columns=None if columns is None else list(columns), filters=[("row", "in", list(rows))])
    entries = table.to_pylist()
    for entry in entries:
        if "rewards" in entry:
            entry["rewards"] = json.loads(entry["rewards"] or "{}")
    return entries


def _entries(number: int, arm: str, sample: "SampledTrajectory") -> list[dict[str, Any]]:
    return [
        {
            "row": number, "arm": arm, "turn": turn, "prompt_id": sample.prompt_id, "prompt": sample.prompt,
            "task": sample.task, "stopped": sample.stopped, "text": content.text,
            "image": None if content.image is None else png(content.image), "correct": content.correct,
            "score": content.score, "rewards": json.dumps(content.rewards),
        }
        for turn, content in enumerate(sample.turns)
    ]  # fmt: skip

"""Reads the stored texts and images of an evaluation.

There are two places. `samples/NAME.parquet` has the trajectories of all arms (see report/kept.py). Runs of older
versions only have `samples/NAME/`, with about a dozen trajectories of the model's own refinement (see
report/samples.py).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow.parquet as pq

from irg_rl.errors import InputError
from irg_rl.report.kept import ENDING, load_kept
from irg_rl.text_in import read_json
from irg_rl.view.evaluated import REAL, EvaluatedRow
from irg_rl.view.run_files import UNREADABLE, Remembered, RunFiles
from irg_rl.view.shown import ShownImage, ShownSegment, ShownTrajectory, png_size
from irg_rl.view.values import number

INDEX = "samples.json"
MOST_BYTES = 64 * 2**20
"""Largest size of a PNG file that is read."""


def shown_trajectory(files: RunFiles, evaluation: str, arm: str, row: EvaluatedRow) -> ShownTrajectory | None:
    """Return a trajectory with its texts and images, or None if they were not stored."""
    try:
        turns = _turns(files, evaluation, arm, row)
    except UNREADABLE as error:
        files.tell(f"samples of {evaluation}", error)
        return None
    return None if turns is None else ShownTrajectory(arm, _segments(evaluation, arm, row, turns), row.stopped)


def image(files: RunFiles, evaluation: str, arm: str, row: EvaluatedRow, turn: int) -> bytes:
    """Return the PNG file of one image. Raises InputError if it was not stored or is damaged."""
    turns = _turns(files, evaluation, arm, row) or {}
    if turn not in turns or turns[turn]["image"] is None:
        raise InputError(f"{evaluation}: no image of turn {turn + 1} was stored for {row.prompt_id}")
    return turns[turn]["image"]


def stored_rows(files: RunFiles, evaluation: str, rows: Sequence[EvaluatedRow]) -> set[int]:
    """Return the numbers of those rows whose texts and images were stored."""
    try:
        path = files.source.path("samples", evaluation + ENDING)
        if path.is_file():
            return _kept_rows(path)
        known = _old_index(files, evaluation)
        return {row.row for row in rows if (row.prompt_id, row.sample) in known}
    except UNREADABLE as error:
        files.tell(f"samples of {evaluation}", error)
        return set()


def is_illustrated(files: RunFiles, evaluation: str) -> bool:
    """Return whether texts and images of this evaluation were stored."""
    places = ((evaluation + ENDING,), (evaluation, INDEX))
    return any(files.source.path("samples", *place).is_file() for place in places)


def _turns(files: RunFiles, evaluation: str, arm: str, row: EvaluatedRow) -> dict[int, dict[str, Any]] | None:
    """Return turn -> its content with the fields text, image (bytes of a PNG file), correct, score and rewards."""
    path = files.source.path("samples", evaluation + ENDING)
    if path.is_file():
        own = [e for e in load_kept(path, [row.row]) if (e["arm"], e["prompt_id"]) == (arm, row.prompt_id)]
        return {e["turn"]: e for e in own} or None
    entry = _old_index(files, evaluation).get((row.prompt_id, row.sample)) if arm == REAL else None
    return None if entry is None else _old_turns(files, evaluation, entry)


def _segments(
    evaluation: str, arm: str, row: EvaluatedRow, turns: dict[int, dict[str, Any]]
) -> list[ShownSegment]:
    segments = []
    for turn, content in sorted(turns.items()):
        truth = row.reflections[turn - 1] if arm == REAL and 0 < turn <= len(row.reflections) else None
        if content["text"] or turn == 0:
            segments.append(ShownSegment(turn, str(content["text"]), correct=truth))
        if content["image"] is not None:
            address = urlencode({
                "evaluation": evaluation, "arm": arm, "prompt": row.prompt_id, "sample": row.sample, "turn": turn,
            })  # fmt: skip
            segments.append(
                ShownSegment(
                    turn, picture=ShownImage(f"picture?{address}", *png_size(content["image"])), is_text=False,
                    correct=content["correct"], score=number(content["score"]),
                    scores={str(name): number(value) for name, value in content["rewards"].items()},
                )
            )  # fmt: skip
    return segments


def _old_index(files: RunFiles, evaluation: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (id of a prompt, number of the sample) -> entry of samples.json."""
    path = files.source.path("samples", evaluation, INDEX)
    return _samples(path) if path.is_file() else {}


def _read_samples(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    seen: Counter[str] = Counter()
    found = {}
    for entry in read_json(path):
        prompt_id = str(entry["prompt_id"])
        found[prompt_id, seen[prompt_id]] = entry
        seen[prompt_id] += 1
    return found


def _old_turns(files: RunFiles, evaluation: str, entry: dict[str, Any]) -> dict[int, dict[str, Any]]:
    turns = {}
    for turn, content in enumerate(entry["turns"]):
        name = content["image"]
        turns[turn] = {
            "text": str(content["text"]), "correct": content["correct"], "score": content["score"],
            "rewards": dict(content["rewards"]), "image": None if name is None else _png(files, evaluation, str(name)),
        }  # fmt: skip
    return turns


def _png(files: RunFiles, evaluation: str, name: str) -> bytes:
    """Read an image that samples.json names. The name must not point outside its folder."""
    if Path(name).name != name:
        raise InputError(f"{INDEX} of {evaluation} names the image {name!r}, which is not a file of its own folder")
    path = files.source.path("samples", evaluation, name)
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES} bytes")
    data = path.read_bytes()
    png_size(data)
    return data


def _read_kept_rows(path: Path) -> set[int]:
    return set(pq.read_table(path, columns=["row"])["row"].to_pylist())


_samples = Remembered(_read_samples)
_kept_rows = Remembered(_read_kept_rows)

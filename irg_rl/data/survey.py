"""Looks at a folder of SFT data in the IRG schema: can every row be trained on, does it look like its mode, and what is
in it? The folder has one folder of parquet files per mode, as IRG's published toy set has. Whoever wrote it does not
matter."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from irg_rl.config.sampling import STOP_PHRASE
from irg_rl.errors import InputError
from irg_rl.learning_modes import (
    IMPROVING_FULL,
    IMPROVING_GENERATION,
    IMPROVING_UNDERSTANDING,
    INITIAL_FULL,
    INITIAL_GENERATION,
    INITIAL_UNDERSTANDING,
)
from irg_rl.stop_phrase import says
from sft.dataset import stored_rows
from sft.rows import BrokenRow, ImagePart, Part, TextPart, decode_row, parse_row

FORMS = {
    INITIAL_UNDERSTANDING: "t+C+t*T+",
    INITIAL_GENERATION: "t+T+",
    INITIAL_FULL: "t+T+X",
    IMPROVING_UNDERSTANDING: "t+CC?t*T+",
    IMPROVING_GENERATION: "tt+CT+",
    IMPROVING_FULL: "tt+CT(BT)*X?",
}
"""Mode -> regular expression for its rows. A letter stands for one text or image: t is a text and T a trained text, C
is an image that is seen, X one that is drawn, and B one that is drawn and then seen."""
LISTED = 5
"""Number of rows that are named per mode and kind of problem."""


@dataclass
class ModeSurvey:
    """What was found in the folder of one mode. `broken` lists rows that SFT rejects. `odd` lists rows that can be
    trained on, but do not look like the mode. `is_known` is False if the folder has not the name of a mode."""

    mode: str
    is_known: bool
    files: int = 0
    size: int = 0
    rows: int = 0
    broken: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    with_target: int = 0
    stops: int = 0
    prompts: set[str] = field(default_factory=set)
    words: list[int] = field(default_factory=list)
    """Number of words of each trained text."""
    sizes: Counter[str] = field(default_factory=Counter)
    """Width x height -> number of images."""

    @property
    def usable(self) -> int:
        return self.rows - len(self.broken)

    def words_at(self, percent: float) -> int | None:
        """Return the number of words that this percentage of the trained texts does not exceed."""
        return int(np.percentile(self.words, percent)) if self.words else None


def mode_folders(folder: Path) -> list[Path]:
    """Return the folders of parquet files in `folder`, or `folder` itself if it has parquet files. Raises InputError if
    there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one that holds one folder of parquet files per mode")
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = [path for path in candidates if any(path.glob("*.parquet"))]
    if not found:
        raise InputError(f"{folder} has no folder with parquet files: one per mode is needed")
    return found


def survey(folder: Path, progress: Callable[[int], None] = lambda rows: None) -> ModeSurvey:
    """Read every row of the folder of one mode, and return what was found. Every image is decoded, as in training.
    `progress` is called with the number of rows that have just been read. Raises DataError if a file is no readable
    parquet file."""
    name = folder.resolve().name
    found = ModeSurvey(name, name in FORMS)
    files = sorted(folder.glob("*.parquet"))
    found.files, found.size = len(files), sum(file.stat().st_size for file in files)
    for file, group, row, conversation in stored_rows(folder):
        found.rows += 1
        progress(1)
        where = f"{file.name}, row group {group}, row {row}"
        try:
            parts = parse_row(conversation)
            decode_row(parts)
        except BrokenRow as problem:
            found.broken.append(f"{where}: {problem}")
            continue
        _count(found, parts)
        if found.is_known and not re.fullmatch(FORMS[name], form := "".join(map(_letter, parts))):
            found.odd.append(f"{where}: its form is {form}, and that of the mode is {FORMS[name]}")
    return found


def _count(found: ModeSurvey, parts: Sequence[Part]) -> None:
    trained = [part.text for part in parts if isinstance(part, TextPart) and part.loss]
    images = [part for part in parts if isinstance(part, ImagePart)]
    found.words += [len(text.split()) for text in trained]
    found.with_target += any(image.target for image in images)
    found.stops += bool(trained) and says(STOP_PHRASE, trained[-1])
    found.sizes.update(f"{image.pixels.shape[1]}x{image.pixels.shape[0]}" for image in images)
    first = next((part.text for part in parts if isinstance(part, TextPart)), "")
    found.prompts.add(first)


def _letter(part: Part) -> str:
    if isinstance(part, TextPart):
        return "T" if part.loss else "t"
    seen = part.vae or part.vit
    return ("B" if seen else "X") if part.target else "C"


@dataclass
class OriginSurvey:
    """What the columns beside `conversation` say. `repaired` counts rows with at least one repaired text. `scores` maps
    a question to the judge to its mean probability."""

    rows: int
    teachers: dict[str, int]
    repaired: int
    scores: dict[str, float]


def origins(folder: Path) -> OriginSurvey | None:
    """Return what the columns of `irg-rl data build` say about the folder of one mode. None if it has other columns."""
    teachers, repaired, scores, rows = Counter[str](), 0, dict[str, list[float]](), 0
    for teacher, repairs, said in _origin_columns(folder):
        rows += 1
        teachers[teacher] += 1
        repaired += bool(repairs)
        for name, score in said.items():
            scores.setdefault(name, []).append(score)
    if not rows:
        return None
    return OriginSurvey(rows, dict(teachers), repaired, {name: float(np.mean(all_)) for name, all_ in scores.items()})


def _origin_columns(folder: Path) -> Iterator[tuple[str, list[Any], dict[str, float]]]:
    names = ["teacher", "repairs", "scores"]
    for file in sorted(folder.glob("*.parquet")):
        try:
            if not set(names) <= set(pq.read_schema(file).names):
                continue
            table = pq.read_table(file, columns=names).to_pylist()
            for row in table:
                yield str(row["teacher"]), list(json.loads(row["repairs"])), dict(json.loads(row["scores"]))
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{file}: the columns {', '.join(names)} are not as `irg-rl data build` writes them ({error})"
            ) from error

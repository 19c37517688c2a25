"""Reads sets of preferences: pairs of images of one prompt, and which of the two people prefer.

Four layouts are read, and one is written:

| layout | file | what decides |
|---|---|---|
| own (written by `irg-rl reward pairs`) | JSON lines with `prompt`, `a`, `b` (image files) | `preferred`: a, b or tie |
| HPDv2 | JSON list: `prompt`, `image_path` or `file_path` | `rank` (0: best) or `human_preference` (1: better) |
| Pick-a-Pic | parquet with `caption`, `jpg_0`, `jpg_1` | `label_0`: 1, 0, or .5 for a tie |
| MMRB2 | JSON with `pairs`: `prompt_content`, `response_a`, `response_b` | `chosen` or `human_preference`: A or B |

A ranking of n images becomes its n (n - 1) / 2 pairs. Image files are searched beside the file and in its folders
`test` and `train`. Of MMRB2, pairs whose prompt or answers are not one text and one image each are skipped: they are
about edits or interleaved answers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.prompts import require_prompt
from irg_rl.reward_bench.images import LISTS, BenchImage, decode_cell, decode_file, prompt_of_entry
from irg_rl.task import Ranking
from irg_rl.text_in import parse_json, read_json, read_lines
from irg_rl.trajectory import Prompt

FILE = "pairs.jsonl"
FOLDERS = ("", "test", "train")
SIDES = {"a": 1.0, "b": 0.0, "tie": 0.5}
"""Word of a file -> the share with which the first image is preferred."""


@dataclass(frozen=True)
class PreferencePair:
    """Two images of one prompt. `preferred` is 1 if people prefer the first one, 0 if they prefer the second one, and
    .5 for a tie. `models` names who drew them, as far as it is known."""

    first: BenchImage
    second: BenchImage
    preferred: float
    models: tuple[str, str] = ("", "")

    @property
    def of_one_model(self) -> bool:
        return bool(self.models[0]) and self.models[0] == self.models[1]


@dataclass
class PreferenceSet:
    """Pairs of images with preferences. `skipped` counts entries that are not about two images of one prompt."""

    pairs: list[PreferencePair] = field(default_factory=list)
    layout: str = ""
    skipped: int = 0


def read_preferences(path: Path) -> PreferenceSet:
    """Read a set of preferences from a file, or from the folder that `irg-rl reward pairs` has written. Raises
    InputError if the layout is unknown or there are no pairs."""
    path = path / FILE if path.is_dir() else path
    if path.suffix == ".parquet":
        found = PreferenceSet(list(_of_pick_a_pic(path)), "Pick-a-Pic")
    elif path.suffix == ".jsonl":
        found = PreferenceSet([pair for where, line in read_lines(path) for pair in _own(path, where, line)], "own")
    else:
        found = _of_json(path)
    if not found.pairs:
        raise InputError(f"{path} has no pairs of two images ({found.skipped} entries of other kinds)")
    return found


def write_preferences(folder: Path, rankings: Sequence[Ranking]) -> int:
    """Write all pairs of rankings in the own layout: image files, and `pairs.jsonl`. Return the number of pairs. The
    preferred image of a pair is the one that the ranking's simulated person likes more. A list of the images and their
    prompts is written too, so that `read_images` reads the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines, listed = [], []
    for number, ranking in enumerate(rankings):
        names = [f"images/{number:05d}-{place}.png" for place in range(len(ranking.images))]
        for name, image in zip(names, ranking.images):
            PILImage.fromarray(np.asarray(image)).save(folder / name)
            about = {"prompt": ranking.prompt.text, "metadata": ranking.prompt.metadata, "group": f"{number:05d}"}
            listed.append(json.dumps({"file_name": name, **about}))
        for a, b in combinations(range(len(names)), 2):
            gap = ranking.liking[a] - ranking.liking[b]
            lines.append(json.dumps({
                "prompt": ranking.prompt.text, "metadata": ranking.prompt.metadata, "a": names[a], "b": names[b],
                "preferred": "a" if gap > 0 else "b" if gap < 0 else "tie",
            }))  # fmt: skip
    for file, content in ((FILE, lines), (LISTS[0], listed)):
        (folder / file).write_text("\n".join(content) + "\n", encoding="utf-8")
    return len(lines)


def _own(path: Path, where: str, line: str) -> Iterator[PreferencePair]:
    entry = parse_json(line, where)
    if not isinstance(entry, dict) or not all(isinstance(entry.get(side), str) for side in "ab"):
        raise InputError(f"{where}: needs `prompt`, and `a` and `b` that name image files")
    preferred = entry.get("preferred")
    if preferred not in SIDES:
        raise InputError(f"{where}: `preferred` is {preferred!r:.40}, it must be a, b or tie")
    prompt, models = prompt_of_entry(entry, where), (str(entry.get("model_a", "")), str(entry.get("model_b", "")))
    images = [_file_image(path, where, entry[side], prompt) for side in "ab"]
    yield PreferencePair(images[0], images[1], SIDES[preferred], models)


def _file_image(path: Path, where: str, name: str, prompt: Prompt) -> BenchImage:
    """Return the image in the file `name`, which is searched in the folder of `path` and in its folders test and train.
    A missing file is found later, when the image is read."""
    places = [path.parent / folder / name for folder in FOLDERS]
    file = next((place for place in places if place.is_file()), places[0])
    return BenchImage(name, prompt, where, partial(decode_file, file))


def _of_json(path: Path) -> PreferenceSet:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("pairs"), list):
        pairs = [_mmrb2(path, f"{path}, pair {i}", entry) for i, entry in enumerate(content["pairs"])]
        return PreferenceSet([p for p in pairs if p is not None], "MMRB2", sum(p is None for p in pairs))
    if isinstance(content, list):
        return PreferenceSet(
            [pair for i, entry in enumerate(content) for pair in _hpdv2(path, f"{path}, entry {i}", entry)], "HPDv2"
        )
    raise InputError(f"{path}: neither a list (HPDv2) nor an object with `pairs` (MMRB2)")


def _hpdv2(path: Path, where: str, entry: Any) -> Iterator[PreferencePair]:
    names = entry.get("image_path", entry.get("file_path")) if isinstance(entry, dict) else None
    ranks = entry.get("rank") if isinstance(entry, dict) else None
    if ranks is None and isinstance(entry, dict) and isinstance(entry.get("human_preference"), list):
        ranks = [-value if isinstance(value, int | float) else value for value in entry["human_preference"]]
    if not (_texts(names) and _numbers(ranks)) or not names or not ranks or not len(names) == len(ranks) >= 2:
        raise InputError(f"{where}: needs `prompt`, `image_path` and one `rank` per image (or `human_preference`)")
    prompt = prompt_of_entry(entry, where)
    images = [_file_image(path, where, name, prompt) for name in names]
    for a, b in combinations(range(len(images)), 2):
        yield PreferencePair(images[a], images[b], _preferred(ranks[b] - ranks[a]))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)


def _preferred(gap: float) -> float:
    """Return 1 if the first image is better by `gap`, 0 if it is worse, and .5 if both are equal."""
    return 1.0 if gap > 0 else 0.0 if gap < 0 else 0.5


def _mmrb2(path: Path, where: str, entry: Any) -> PreferencePair | None:
    """Return a pair of MMRB2, or None if it is not about one text and two images."""
    try:
        prompt_parts = _parts(entry["prompt_content"])
        sides = [entry["response_a"], entry["response_b"]]
        answers = [_parts(side["response_content"]) for side in sides]
        models = [str(side.get("model_name", side.get("model", ""))) for side in sides]
        chosen = entry["chosen"] if "chosen" in entry else entry["human_preference"]
        preferred = {"A": 1.0, "B": 0.0, "TIE": 0.5}[str(chosen).upper()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: not a pair of MMRB2 ({error!r})") from error
    if [kind for kind, _ in prompt_parts] != ["text"] or any([kind for kind, _ in a] != ["image"] for a in answers):
        return None
    prompt = Prompt(str(entry.get("id", entry.get("pair_id", where))), require_prompt(prompt_parts[0][1], where))
    images = [_file_image(path, where, answer[0][1], prompt) for answer in answers]
    return PreferencePair(images[0], images[1], preferred, (models[0], models[1]))


def _parts(content: Any) -> list[tuple[str, str]]:
    return [(str(kind), str(value)) for kind, value in content]


def _of_pick_a_pic(path: Path) -> Iterator[PreferencePair]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        table = parquet.ParquetFile(path)
        for number, row in enumerate(row for batch in table.iter_batches(256) for row in batch.to_pylist()):
            where = f"{path.name}, row {number}"
            if "jpg_0" not in row or "jpg_1" not in row:
                raise InputError(f"{where}: needs `caption`, `jpg_0`, `jpg_1` and `label_0`; there: {', '.join(row)}")
            yield from _picked(row, where)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error


def _picked(row: Mapping[str, Any], where: str) -> Iterator[PreferencePair]:
    if row.get("has_label") is False:
        return
    label = row.get("label_0")
    if not isinstance(label, int | float) or not 0 <= label <= 1:
        raise InputError(f"{where}: `label_0` is {label!r:.40}, it must be 1, 0, or .5 for a tie")
    prompt = prompt_of_entry(row, where)
    images = [BenchImage(f"{where}, {side}", prompt, where, partial(decode_cell, row[side], where))
              for side in ("jpg_0", "jpg_1")]  # fmt: skip
    models = (str(row.get("model_0") or ""), str(row.get("model_1") or ""))
    yield PreferencePair(images[0], images[1], _preferred(label - 0.5), models)

"""`irg-rl generate --suite`: draws the images of a benchmark. The images of each turn get a folder of their own, called
a tree, in the official layout of the benchmark.

Finished images are not drawn again if they are complete in every tree. Several workers may write to one folder, and
each draws its own share of the images (`--shard`). The images do not depend on the number of workers, because no random
number depends on the batch or on the worker.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from irg_rl.commands.generate import Ready, make_ready
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import write_json
from irg_rl.errors import InputError
from irg_rl.model.files import weight_files
from irg_rl.pictures import UNDECODABLE
from irg_rl.prompts import write_prompts
from irg_rl.suites.base import Picture, Suite
from irg_rl.suites.catalog import suite_of
from irg_rl.suites.files import whole_lines
from irg_rl.suites.trees import (
    PROMPTS,
    SETTINGS,
    STOPS,
    is_whole,
    read_settings,
    tree_names,
    turn_name,
    write_picture,
    write_whole,
)
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.request import Request

Size = tuple[int, int]
"""Type of the size of an image: (height, width) in pixels."""


@dataclass(frozen=True)
class DrawingJob:
    """What one call of `irg-rl generate --suite` has to do: which images of the benchmark to draw, with which settings,
    and into which folder. `shard` is (number of this worker, number of workers)."""

    suite: Suite
    prompts_path: Path
    prompts: list[Prompt]
    out: Path
    turns: int
    seed: int
    model_name: str
    sources: Path | None = None
    shard: tuple[int, int] = (0, 1)

    @property
    def texts(self) -> Path:
        number, of = self.shard
        return self.out / ("texts.jsonl" if of == 1 else f"texts-{number}of{of}.jsonl")


def plan_task(
    suite: Suite, prompts: Path, out: Path, turns: int, seed: int, model_name: str, sources: Path | None, shard: str
) -> DrawingJob:
    """Read the prompts of the benchmark, make all checks that need no model, and return the `DrawingJob`. `model_name`
    is the name of the model in the paths of the images. `sources` is the folder of the images to edit; it is None if
    the benchmark edits no images. `shard` is text such as 0/8: the number of this worker, and how many workers there
    are. Raises InputError if a check fails."""
    if suite.edits != (sources is not None):
        need = "needs its source images, --sources FOLDER" if suite.edits else "edits no images: leave --sources out"
        raise InputError(f"{suite.title} {need}")
    task = DrawingJob(suite, prompts, suite.read_prompts(prompts), out, turns, seed, model_name, sources, _shard(shard))
    paths = [picture.path for picture in suite.pictures(task.prompts, model_name)]
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise InputError(f"{prompts}: {count} prompts share the image {path}; they must differ")
    if sources is not None:
        missing = [p for p in task.prompts if not (sources / suite.source(p)).is_file()]
        if missing:
            raise InputError(
                f"{sources} lacks {len(missing)} of {len(task.prompts)} source images, the first is "
                f"{suite.source(missing[0])} of prompt {missing[0].id}"
            )
        for prompt in task.prompts:
            _require_whole(sources / suite.source(prompt), prompt)
    return task


def _require_whole(source: Path, prompt: Prompt) -> None:
    """Raise InputError if the source image of a prompt cannot be decoded to its end."""
    try:
        with Image.open(source) as image:
            image.load()
    except UNDECODABLE as error:
        raise InputError(f"{source}, the source image of prompt {prompt.id}, cannot be decoded: {error}") from error


def generate_suite(
    target: Path,
    suite: str,
    prompts: Path,
    turns: int,
    seed: int,
    changes: Mapping[str, Any],
    out: Path,
    stop: bool,
    *,
    model_name: str,
    sources: Path | None,
    shard: str,
) -> None:
    """Run `irg-rl generate --suite`: load a model and draw the images of a benchmark. An invalid prompts file is
    reported before the model is loaded. `target`, `changes` and `stop` are explained in `make_ready`, and `model_name`,
    `sources` and `shard` in `plan_task`."""
    task = plan_task(suite_of(suite), prompts, out, turns, seed, model_name, sources, shard)
    draw_suite(make_ready(target, changes, stop), task)


def draw_suite(ready: Ready, task: DrawingJob) -> None:
    """Draw those images of the benchmark that are missing, and write the text files that belong to the benchmark's
    layout."""
    pictures = task.suite.pictures(task.prompts, task.model_name)
    _begin(ready, task, pictures)
    number, of = task.shard
    mine = pictures[number::of]
    _end_last_line(task.texts)
    done = _recorded(task.out)
    todo = [picture for picture in mine if not _is_drawn(task, picture, done)]
    samples = [(picture, sample) for picture in todo for sample in picture.samples]
    total, open_ = sum(len(p.samples) for p in mine), len(samples)
    drawing: dict[str, dict[int, Trajectory]] = {}
    with bar(f"{task.suite.name}: {task.turns} turns", total, total - open_) as progress:
        for size, batch in _batches(task, ready, samples):
            requests = [_request(task, picture.prompt, sample, size) for picture, sample in batch]
            turns = task.turns + task.suite.edits  # a source image counts as the first turn
            for (picture, sample), trajectory in zip(batch, ready.sampler(size).sample(requests, turns), strict=True):
                drawing.setdefault(picture.path, {})[sample] = trajectory
                if len(drawing[picture.path]) == len(picture.samples):
                    _finish(task, picture, drawing.pop(picture.path))
            progress.advance(len(batch))
    records = _recorded(task.out)
    for turn, name in enumerate(tree_names(task.turns)):
        for path, content in task.suite.text_files(pictures, records, turn).items():
            write_whole(task.out / name / path, content.encode())
    write_json(task.out / STOPS, _stops(task, records))
    trees = ", ".join(tree_names(task.turns))
    console.print(f"{len(mine)} files in each of {trees}: {task.out}", markup=False, soft_wrap=True)


def _begin(ready: Ready, task: DrawingJob, pictures: Sequence[Picture]) -> None:
    """Write the settings, the prompts and the additional files of the benchmark into the output folder. If the folder
    already has settings, write nothing. Instead, raise InputError if these settings differ from the present ones."""
    settings = {
        "suite": task.suite.name, "prompts_file": task.prompts_path.name, "prompts_sha256": _digest(task.prompts),
        "model_name": task.model_name, "sources": task.sources and str(task.sources.resolve()),
        "weights": [[file.stat().st_size, file.stat().st_mtime_ns] for file in weight_files(ready.folder)],
        **ready.settings(task.seed, task.turns),
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))
    if (task.out / SETTINGS).is_file():
        there = read_settings(task.out)
        free = ("batch_size", "device")  # these change only the rounding, if anything
        if differ := [k for k in settings if k not in free and settings[k] != there.get(k)]:
            k = differ[0]
            raise InputError(f"{task.out} was begun with {k} {there.get(k)!r}, not {settings[k]!r}: use another --out")
        return
    task.out.mkdir(parents=True, exist_ok=True)
    write_prompts(task.out / PROMPTS, task.prompts)
    for name in tree_names(task.turns):
        for path, content in task.suite.side_files(pictures).items():
            write_whole(task.out / name / path, content.encode())
    write_whole(task.out / SETTINGS, json.dumps(settings, indent=1).encode())  # written last, so then all is complete


def _digest(prompts: Sequence[Prompt]) -> str:
    return hashlib.sha256(json.dumps([[p.id, p.text] for p in prompts]).encode()).hexdigest()


def _recorded(out: Path) -> dict[str, dict[str, Any]]:
    """Read the records of finished images in the folder `out`. Return path of an image file -> its last record. An
    incomplete last line is ignored."""
    lines = (entry for path in sorted(out.glob("texts*.jsonl")) for _, entry in whole_lines(path, []))
    return {entry["path"]: entry for entry in lines}


def _end_last_line(path: Path) -> None:
    """Add a line end to the file if its last line is incomplete because of a crash. The next record then starts on a
    new line."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        path.write_bytes(content + b"\n")


def _is_drawn(task: DrawingJob, picture: Picture, done: dict[str, dict[str, Any]]) -> bool:
    return picture.path in done and all(is_whole(task.out / name / picture.path) for name in tree_names(task.turns))


def _batches(
    task: DrawingJob, ready: Ready, samples: Sequence[tuple[Picture, int]]
) -> Iterator[tuple[Size, list[tuple[Picture, int]]]]:
    """Yield (image size, batch of samples that have this size). A sample is (picture, number of the sample). In a
    benchmark of image editing, the new image has nearly the same aspect ratio as the source image."""
    by_size: dict[Size, list[tuple[Picture, int]]] = {}
    for picture, sample in samples:
        by_size.setdefault(_size(task, ready, picture.prompt), []).append((picture, sample))
    for size, members in by_size.items():
        step = ready.recipe.evaluation.batch_size
        for start in range(0, len(members), step):
            yield size, members[start : start + step]


def _size(task: DrawingJob, ready: Ready, prompt: Prompt) -> Size:
    if task.sources is None:
        return ready.recipe.sampling.image_size
    with Image.open(task.sources / task.suite.source(prompt)) as image:
        return fitted(image.height, image.width, max(ready.recipe.sampling.image_size), ready.stride)


def fitted(height: int, width: int, longest: int, stride: int) -> Size:
    """Return a new (height, width) in pixels with nearly the same aspect ratio as `height` and `width`. The longer side
    is about `longest`, and both sides are multiples of `stride`."""
    scale = longest / max(height, width)
    return max(round(height * scale / stride), 1) * stride, max(round(width * scale / stride), 1) * stride


def _request(task: DrawingJob, prompt: Prompt, sample: int, size: Size) -> Request:
    if task.sources is None:
        return Request(prompt, sample, task.seed)
    with Image.open(task.sources / task.suite.source(prompt)) as image:
        pixels = np.array(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return Request(prompt, sample, task.seed, think="", first_image=torch.from_numpy(pixels))


def _finish(task: DrawingJob, picture: Picture, drawn: dict[int, Trajectory]) -> None:
    """Write one image file of the benchmark, once for each turn, into the folder of the turn. `drawn` has the
    trajectories of its samples; four samples become one file with a 2 x 2 grid. Then append a record with the texts of
    these trajectories to the file of texts."""
    tiles = []
    for sample in picture.samples:
        images = [image.pixels.numpy() for image in drawn[sample].images]
        images = images[1:] or images if task.suite.edits else images  # if nothing was drawn, the source is the answer
        tiles.append(images + [images[-1]] * (task.turns - len(images)))
    write_picture(task.out, picture, list(zip(*tiles, strict=True)))
    record = {"path": picture.path, "prompt": picture.prompt.id,
              "samples": [_said(drawn[sample], task.suite.edits) for sample in picture.samples]}  # fmt: skip
    with task.texts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _said(trajectory: Trajectory, edits: bool) -> dict[str, Any]:
    texts = [{"turn": t.turn, "text": t.text, "finished": t.finished} for t in trajectory.texts]
    return {"sample": trajectory.sample, "images": trajectory.turns - edits, "stopped": trajectory.stopped,
            "texts": texts}  # fmt: skip


def _stops(task: DrawingJob, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a JSON file that lists all trajectories that stopped early. For each, `last` names the turn
    whose image is repeated in the folders of all later turns. If `last` is None, the trajectory has no image of its
    own, and the source image of the benchmark is repeated."""
    stops = [
        {"path": path, "prompt": record["prompt"], "sample": one["sample"],
         "last": turn_name(one["images"] - 1) if one["images"] else None}
        for path, record in records.items() for one in record["samples"] if one["images"] < task.turns
    ]  # fmt: skip
    return {"trajectories": sum(len(r["samples"]) for r in records.values()), "stopped": len(stops), "stops": stops}


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise InputError(f"--shard {text}: write K/N with K from 0 to N-1, as 0/8")
    return int(number), int(of)

"""Saves groups of trajectories in a folder with two files: `groups.json` (texts and numbers) and `tensors.safetensors`.
A group is all trajectories of one prompt. Nothing is pickled.

Several trajectories can share a segment (one text or one image). A shared segment is written once. After reading, it is
again one object in all these trajectories. So saved groups and original groups give the same update, bit for bit.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from irg_rl.errors import InputError
from irg_rl.trajectory import Group, ImageSegment, Prompt, SamplingLaw, Segment, Statement, TextSegment, Trajectory

WORDS, TENSORS = "groups.json", "tensors.safetensors"
FACTS = "rollouts.json"
"""Name of the file with the settings that `irg-rl rollout` used to sample the groups. It lies next to the folders of
the groups."""
LOOKS = "looks"
"""Folder of a run for the groups that RL only shows."""
FORMAT = 1
_KINDS = {"text": TextSegment, "image": ImageSegment}


def step_folder(run: Path, step: int) -> Path:
    """Return the path of the folder for the groups of trajectories of one RL update, for example `rollouts/step-000012`
    in the folder of the run. `step` is the number of the update, counted from 1."""
    return run / "rollouts" / f"step-{step:06d}"


def look_folder(run: Path, step: int) -> Path:
    """Return the path of the folder for the groups that an RL update only shows (see `for_looking`)."""
    return run / LOOKS / f"step-{step:06d}"


def for_looking(groups: Sequence[Group], most_groups: int, most_bytes: int) -> list[Group]:
    """Return copies of the first groups that have only what a reader looks at: texts, pixels, scores and advantages.
    At most `most_groups` groups are returned, and their pixels and texts together have at most `most_bytes` bytes.

    The other tensors are empty, and `law` is None, so these groups cannot be used for training. Segments that are
    shared by several trajectories are shared in the copies, too."""
    found, size = [], 0
    for group in groups[:most_groups]:
        size += sum(s.pixels.numel() if isinstance(s, ImageSegment) else len(s.text.encode()) for s in group.segments)
        if size > most_bytes:
            break
        copies = {id(segment): _without_steps(segment) for segment in group.segments}
        trajectories = [replace(t, segments=[copies[id(s)] for s in t.segments], law=None) for t in group.trajectories]
        found.append(replace(group, trajectories=trajectories))
    return found


def _without_steps(segment: Segment) -> Segment:
    if isinstance(segment, TextSegment):
        nothing = {"ends": None, "token_advantages": None}
        return replace(segment, ids=segment.ids[:0], logprobs=segment.logprobs[:0], **nothing)
    tensors = ("latent", "x", "x_next", "mean", "t", "t_next", "logprobs")
    return replace(segment, drawn=None, **{name: vars(segment)[name][:0] for name in tensors})


def save_groups(folder: Path, groups: Sequence[Group]) -> None:
    """Write groups (each has all trajectories of one prompt) into a folder. An older folder of this name is replaced.
    The new folder appears only when it is complete."""
    segments: dict[int, tuple[int, Segment]] = {}
    records = [_group(group, segments) for group in groups]
    tensors, words = {}, []
    for number, segment in segments.values():
        kind = next(name for name, type_ in _KINDS.items() if isinstance(segment, type_))
        entry: dict[str, Any] = {"kind": kind}
        for field in fields(segment):
            value = getattr(segment, field.name)
            if isinstance(value, Tensor):
                tensors[f"{number}.{field.name}"] = value.clone().contiguous()  # shared storage cannot be saved
            else:
                entry[field.name] = value
        words.append(entry)
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(tensors, aside / TENSORS)
    (aside / WORDS).write_text(json.dumps({"format": FORMAT, "groups": records, "segments": words}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def group_folders(folder: Path) -> list[Path]:
    """Return all folders that hold groups of trajectories saved by `save_groups`: `folder` itself, or folders inside
    it. They are sorted by name; numbers in a name are compared as numbers. Groups of looks (`look_folder`) inside
    `folder` are left out, because training cannot use them. Raises InputError if no such folder is found."""
    found = [
        path.parent
        for path in folder.rglob(WORDS)
        if not path.parent.name.endswith(".tmp") and LOOKS not in path.relative_to(folder).parts
    ]
    found.sort(key=_by_numbers)
    if not found:
        raise InputError(f"{folder}: no groups ({WORDS}); `irg-rl rollout` and rl.dump_every make such folders")
    return found


def _by_numbers(path: Path) -> list[tuple[str, int]]:
    """Return a sort key that compares numbers in a path by value: step-1000000 comes after step-999999."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", str(path))]


def load_groups(folder: Path) -> list[Group]:
    """Read the groups that `save_groups` wrote into a folder. Raises InputError if the folder holds no groups, is
    damaged, or was written in another format version."""
    try:
        content = json.loads((folder / WORDS).read_text())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: no readable groups ({error}); `rl.dump_every` of a recipe writes them") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise InputError(f"{folder}: written in format {found}, this version reads {FORMAT}")
    try:
        parts: list[dict[str, Tensor]] = [{} for _ in content["segments"]]
        for name, tensor in tensors.items():
            number, field = name.split(".")
            parts[int(number)][field] = tensor
        segments = [_segment(entry, part) for entry, part in zip(content["segments"], parts, strict=True)]
        return [_read_group(record, segments) for record in content["groups"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder / WORDS}: not the form that this version writes ({what}); dump it again") from error


def _group(group: Group, segments: dict[int, tuple[int, Segment]]) -> dict:
    for trajectory in group.trajectories:
        for segment in trajectory.segments:
            segments.setdefault(id(segment), (len(segments), segment))
    trajectories = [
        {name: getattr(t, name) for name in ("sample", "history", "stopped", "version", "digest", "rewards")}
        | {"law": None if t.law is None else asdict(t.law), "segments": [segments[id(s)][0] for s in t.segments]}
        for t in group.trajectories
    ]
    return {"id": group.id, "version": group.version, "prompt": asdict(group.prompt), "trajectories": trajectories}


def _segment(entry: dict, tensors: dict[str, Tensor]) -> Segment:
    words: dict[str, Any] = {name: value for name, value in entry.items() if name != "kind"}
    if "grid" in words:
        words["grid"] = tuple(words["grid"])
    if "statements" in words:
        words["statements"] = {name: [Statement(*one) for one in own] for name, own in words["statements"].items()}
    return _KINDS[entry["kind"]](**words, **tensors)


def _read_group(record: dict, segments: list[Segment]) -> Group:
    prompt = Prompt(**record["prompt"])
    trajectories = []
    for entry in record["trajectories"]:
        words = entry | {
            "segments": [segments[number] for number in entry["segments"]],
            "law": None if entry["law"] is None else SamplingLaw(**entry["law"]),
        }
        trajectories.append(Trajectory(prompt, **words))
    return Group(record["id"], prompt, trajectories, record["version"])

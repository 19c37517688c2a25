"""Reads stored groups of RL (see irg_rl/records.py). A group is all sampled trajectories of one prompt; they are called
siblings.

Groups are found in four places: `looks/` of a run (some groups of every tenth update), `rollouts/` of a run (all groups
of an update, with `rl.dump_every`), folders of `irg-rl rollout`, and any folder that directly has `groups.json`.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from safetensors import SafetensorError, safe_open

from irg_rl.errors import InputError
from irg_rl.report.strips import png
from irg_rl.text_in import parse_json, read_text
from irg_rl.view.run_files import UNREADABLE, Remembered, RunFiles
from irg_rl.view.shown import ShownImage, ShownSegment, ShownTrajectory, statement_parts
from irg_rl.view.sources import GROUPS
from irg_rl.view.values import number, section

TENSORS = "tensors.safetensors"
FORMAT = 1
PATTERNS = ("looks/*/groups.json", "rollouts/*/groups.json", "*/groups.json", "groups.json")
GroupKind = tuple[str, int]
"""A kind of segment: its modality (text or image) and its turn, counted from 0."""


@dataclass(frozen=True)
class StoredGroup:
    """A group as it is stored. `entry` is its JSON object, and `segments` are the JSON objects of all segments of its
    folder. `sizes` maps the number of an image segment to its (width, height)."""

    folder: str  # relative to the source, such as looks/step-000010
    place: int  # number of the group in its folder, from 0
    entry: dict[str, Any]
    segments: list[dict[str, Any]]
    sizes: dict[int, tuple[int, int]]
    weights: dict[str, float] = field(default_factory=dict)  # scorer of images -> weight in the reward

    @property
    def prompt(self) -> str:
        return str(section(self.entry, "prompt").get("text", ""))

    @property
    def prompt_id(self) -> str:
        return str(section(self.entry, "prompt").get("id", ""))

    @property
    def task(self) -> str:
        return str(section(self.entry, "prompt", "metadata").get("tag", ""))

    @property
    def siblings(self) -> list[dict[str, Any]]:
        return self.entry["trajectories"]

    def advantages(self) -> dict[GroupKind, list[float]]:
        """Return kind of segment -> advantages of the group's different segments of this kind."""
        found: dict[GroupKind, list[float]] = {}
        for place in dict.fromkeys(place for sibling in self.siblings for place in sibling["segments"]):
            segment = self.segments[place]
            value = number(segment.get("advantage"))
            if value is not None:
                found.setdefault((str(segment["kind"]), int(segment["turn"])), []).append(value)
        return found

    def rewards(self, turn: int) -> list[float]:
        """Return the reward of each sibling's image: the weighted sum of its scores. `turn` 0 is the first image, -1
        the last. Siblings without a score are left out. If the weights are not known, the first scorer is taken."""
        found = []
        for sibling in self.siblings:
            scores = sibling.get("rewards") or {}
            weights = self.weights or dict.fromkeys(list(scores)[:1], 1.0)
            values = [(weight, number(scores[name][turn])) for name, weight in weights.items() if scores.get(name)]
            if values and all(value is not None for _, value in values):
                found.append(sum(weight * (value or 0.0) for weight, value in values))
        return found

    @property
    def spread(self) -> float | None:
        """Standard deviation of the rewards of the siblings' last images. Without a spread, a group teaches nothing."""
        rewards = self.rewards(-1)
        return statistics.pstdev(rewards) if len(rewards) > 1 else None

    @property
    def largest_advantage(self) -> float | None:
        return max((abs(value) for values in self.advantages().values() for value in values), default=None)

    @property
    def unfinished(self) -> int:
        """Number of texts that ended only because they reached the token limit."""
        return sum(not self.segments[place].get("finished", True) for place in self._places())

    @property
    def texts(self) -> int:
        return sum(self.segments[place]["kind"] == "text" for place in self._places())

    def _places(self) -> list[int]:
        return list(dict.fromkeys(place for sibling in self.siblings for place in sibling["segments"]))

    def trajectory(self, sibling: int) -> ShownTrajectory:
        """Return one sibling with its texts and images."""
        entry = self.siblings[sibling]
        often = Counter(place for other in self.siblings for place in other["segments"])
        segments = [self._segment(place, entry, often[place]) for place in entry["segments"]]
        return ShownTrajectory(f"sample {entry.get('sample', sibling)}", segments, bool(entry.get("stopped")))

    def trajectories(self) -> list[ShownTrajectory]:
        return [self.trajectory(sibling) for sibling in range(len(self.siblings))]

    def _segment(self, place: int, sibling: dict[str, Any], shared: int) -> ShownSegment:
        segment = self.segments[place]
        turn = int(segment["turn"])
        scores = {str(name): number(value) for name, value in (segment.get("scores") or {}).items()}
        advantage = number(segment.get("advantage"))
        if segment["kind"] == "text":
            text = str(segment.get("text", ""))
            return ShownSegment(
                turn, text, finished=bool(segment.get("finished", True)), scores=scores, advantage=advantage,
                shared=shared, statements=statement_parts(text, segment.get("statements")),
            )  # fmt: skip
        address = urlencode({"folder": self.folder, "group": self.place, "segment": place})
        picture = ShownImage(f"segment?{address}", *self.sizes[place]) if place in self.sizes else None
        own = {name: number(values[turn]) for name, values in sibling["rewards"].items() if turn < len(values)}
        verdict = own.get("verifier")
        return ShownSegment(
            turn, picture=picture, is_text=False, scores=own | scores, advantage=advantage, shared=shared,
            correct=None if verdict is None else verdict >= 1,
        )  # fmt: skip


def group_folders(files: RunFiles) -> list[str]:
    """Return the folders of the source that have groups, relative to it. They are sorted by name, and those in which RL
    looks into itself come first."""
    found: dict[str, None] = {}
    for pattern in PATTERNS:
        for path in files.source.found(pattern):
            folder = path.parent.relative_to(files.source.folder)
            if not any(part.endswith(".tmp") for part in folder.parts):
                found[str(folder)] = None
    return list(found)


def read_groups(files: RunFiles, folder: str) -> list[StoredGroup]:
    """Return the groups of one folder. If a file is damaged, add a line to `files.problems`. Without
    texts, the list is empty. Without images, the groups have only texts. `folder` must be one of `group_folders`; other
    names have no groups."""
    if folder not in group_folders(files):
        return []
    sizes: dict[int, tuple[int, int]] = {}
    try:
        sizes = _sizes(files.source.path(folder, TENSORS))
    except (*UNREADABLE, SafetensorError) as error:  # the texts can still be shown
        files.tell(files.source.folder / folder / TENSORS, error)
    try:
        content = _content(files.source.path(folder, GROUPS))
    except UNREADABLE as error:
        files.tell(files.source.folder / folder / GROUPS, error)
        return []
    weights = reward_weights(files.recipe)
    return [
        StoredGroup(folder, place, entry, content["segments"], sizes, weights)
        for place, entry in enumerate(content["groups"])
    ]


def pixels(files: RunFiles, folder: str, segment: int) -> bytes:
    """Return an image of a stored group as PNG file. Raises InputError if there is no such image or it is damaged."""
    if folder not in group_folders(files):
        raise InputError(f"{folder}: no such folder of groups")
    path = files.source.path(folder, TENSORS)
    try:
        with safe_open(path, framework="np") as tensors:
            found = tensors.get_tensor(f"{segment}.pixels")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: no image {segment} ({error})") from error
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise InputError(f"{path}: image {segment} is no array of pixels")
    return png(found)


def reward_weights(recipe: dict[str, Any]) -> dict[str, float]:
    """Return scorer -> weight for the scorers of images that a recipe uses in the reward."""
    scorers = section(recipe, "rewards").get("scorers")
    if not isinstance(scorers, list):
        return {}
    weights = {}
    for scorer in scorers:
        if isinstance(scorer, dict) and scorer.get("of", "image") == "image" and not scorer.get("held_out"):
            weight = number(scorer.get("weight", 1.0))
            if weight:
                weights[str(scorer.get("name"))] = weight
    return weights


def advantage_spread(groups: Sequence[StoredGroup]) -> dict[GroupKind, float]:
    """Return kind of segment -> standard deviation of the advantages of all groups together."""
    values: dict[GroupKind, list[float]] = {}
    for group in groups:
        for kind, found in group.advantages().items():
            if len(found) < 2:  # one segment for all siblings, such as the first image of a group with forks
                continue
            values.setdefault(kind, []).extend(found)
    return {kind: statistics.pstdev(found) for kind, found in sorted(values.items()) if len(found) > 1}


def _read_content(path: Path) -> dict[str, Any]:
    """Read groups.json and check everything that the pages rely on."""
    content = parse_json(read_text(path), str(path), finite=False)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: written in format {content.get('format')}, this version reads {FORMAT}")
    segments = content["segments"]
    for segment in segments:
        if segment["kind"] not in ("text", "image") or not isinstance(segment["turn"], int):
            raise InputError(f"{path}: a segment is neither a text nor an image of a turn")
    for group in content["groups"]:
        for sibling in group["trajectories"]:
            if not all(isinstance(place, int) and 0 <= place < len(segments) for place in sibling["segments"]):
                raise InputError(f"{path}: a trajectory names a segment that is not there")
            if not all(isinstance(values, list) for values in sibling["rewards"].values()):
                raise InputError(f"{path}: the rewards of a trajectory are not lists")
    return content


def _read_sizes(path: Path) -> dict[int, tuple[int, int]]:
    """Return number of an image segment -> (width, height)."""
    sizes = {}
    with safe_open(path, framework="np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (the object is no mapping)
            place, _, what = name.partition(".")
            shape = tensors.get_slice(name).get_shape() if what == "pixels" else ()
            if len(shape) == 3 and place.isdecimal():
                sizes[int(place)] = shape[1], shape[0]
    return sizes


_content = Remembered(_read_content)
_sizes = Remembered(_read_sizes)

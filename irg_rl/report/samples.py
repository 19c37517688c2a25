"""Stores about a dozen sampled trajectories for the report. The stored files are `samples.json`, one PNG file per
image, and one PNG file per trajectory with all its images side by side."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from irg_rl.errors import InputError
from irg_rl.report import strips
from irg_rl.task import Verdict
from irg_rl.trajectory import Trajectory

INDEX = "samples.json"


@dataclass(frozen=True)
class SampledTurn:
    """Text and image of one turn, with the verdict on the image (`correct`) and its scores. If the model stops at this
    turn, there is no image."""

    text: str
    image: UInt8[np.ndarray, "H W 3"] | None = None
    correct: bool | None = None
    score: float | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SampledTrajectory:
    """One trajectory as the report shows it: its prompt, its turns (texts and images), and whether the model stopped by
    itself. Each image can have a verdict that says whether it is right."""

    prompt_id: str
    prompt: str
    task: str
    turns: list[SampledTurn]
    stopped: bool

    @property
    def images(self) -> list[UInt8[np.ndarray, "H W 3"]]:
        return [turn.image for turn in self.turns if turn.image is not None]

    def strip(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return one picture with all images side by side. Each image has a coloured frame, which shows whether the
        image is right."""
        return strips.strip(self.images, [turn.correct for turn in self.turns if turn.image is not None])


def from_trajectory(trajectory: Trajectory, verdicts: Sequence[Verdict | None] | None = None) -> SampledTrajectory:
    """Convert a trajectory for the report. `verdicts` has one entry per image, which says whether the image is right.
    The entry is None if the image has no verdict. If `verdicts` itself is None, the images are shown without verdicts.
    Raises ValueError if the number of verdicts is not the number of images."""
    said = {text.turn: text.text for text in trajectory.texts}
    drawn = {image.turn: image.pixels.cpu().numpy() for image in trajectory.images}
    if verdicts is not None and len(verdicts) != len(drawn):
        raise ValueError(f"prompt {trajectory.prompt.id!r}: {len(verdicts)} verdicts for {len(drawn)} images")
    turns = []
    for turn in sorted(said.keys() | drawn.keys()):
        verdict = None if verdicts is None or turn not in drawn else verdicts[turn]
        turns.append(
            SampledTurn(
                text=said.get(turn, ""),
                image=drawn.get(turn),
                correct=None if verdict is None else bool(verdict.correct),
                score=None if verdict is None else float(verdict.score),
                rewards={name: values[turn] for name, values in trajectory.rewards.items() if turn in drawn},
            )
        )
    task = str(trajectory.prompt.metadata.get("tag", ""))
    return SampledTrajectory(trajectory.prompt.id, trajectory.prompt.text, task, turns, trajectory.stopped)


def save_samples(folder: Path, samples: Sequence[SampledTrajectory]) -> None:
    """Write all samples into `folder`: one JSON file, and PNG files of the images. An older folder of this name is
    replaced only when the new one is complete."""
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    entries = []
    for number, sample in enumerate(samples):
        entries.append(_entry(sample, number))
        for turn, content in enumerate(sample.turns):
            if content.image is not None:
                (aside / _image_name(number, turn)).write_bytes(strips.png(content.image))
        if sample.images:
            (aside / f"{number:03d}-strip.png").write_bytes(strips.png(sample.strip()))
    (aside / INDEX).write_text(json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def load_samples(folder: Path) -> list[SampledTrajectory]:
    """Read samples written by `save_samples`. Raises InputError if a file is broken; the message names the file."""
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [_sample(folder, entry) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / INDEX} is not a list of samples ({error}); draw the samples again") from error


def _image_name(number: int, turn: int) -> str:
    return f"{number:03d}-turn{turn}.png"


def _entry(sample: SampledTrajectory, number: int) -> dict:
    turns = [
        {
            "text": turn.text,
            "image": None if turn.image is None else _image_name(number, index),
            "correct": turn.correct,
            "score": turn.score,
            "rewards": turn.rewards,
        }
        for index, turn in enumerate(sample.turns)
    ]
    about = {"prompt_id": sample.prompt_id, "prompt": sample.prompt, "task": sample.task, "stopped": sample.stopped}
    return about | {"turns": turns}


def _sample(folder: Path, entry: dict) -> SampledTrajectory:
    turns = [
        SampledTurn(
            text=str(turn["text"]),
            image=None if turn["image"] is None else _read_image(folder, str(turn["image"])),
            correct=turn["correct"],
            score=turn["score"],
            rewards=dict(turn["rewards"]),
        )
        for turn in entry["turns"]
    ]
    return SampledTrajectory(entry["prompt_id"], entry["prompt"], entry["task"], turns, bool(entry["stopped"]))


def _read_image(folder: Path, name: str) -> UInt8[np.ndarray, "H W 3"]:
    # the report embeds this file, so its name must not point outside the folder
    if Path(name).name != name:
        raise InputError(f"{folder / INDEX} names the image {name!r}, which is not a file of its own folder")
    try:
        with Image.open(folder / name, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{folder / name} cannot be read as a PNG ({error}); draw the samples again") from error

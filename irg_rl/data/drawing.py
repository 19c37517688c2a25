"""Who draws: a folder that has the images already, a model in BAGEL's layout, or an image editor."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from irg_rl.config.data import DataRecipe, EditorRecipe
from irg_rl.data.answers import QuestionFailed, Service
from irg_rl.data.candidates import IMPROVED, Candidate, propose
from irg_rl.data.sources import FoundImage, ImageFolder, LeftOut, UnusableImage, usable_image
from irg_rl.data.texts import tagged
from irg_rl.data.threads import in_threads
from irg_rl.suites.files import whole_lines
from irg_rl.suites.trees import is_whole, write_whole
from irg_rl.trajectory import Prompt
from rewards.judge import to_png
from rewards.judge_answer import Unanswered
from sft.rows import BrokenRow, image_bytes

THOUGHTS = "first.jsonl"
THOUGHT = "think text of the model"


@dataclass(frozen=True)
class Draft:
    """A first image with the model's think text. `is_finished` is False if the text was cut off at its limit."""

    pixels: np.ndarray
    think: str
    is_finished: bool


@dataclass(frozen=True)
class Redraw:
    """A first image that is to be improved as a reflection says."""

    prompt: Prompt
    think: str
    first: np.ndarray
    reflection: str


class Painter(Protocol):
    """A model that draws."""

    def first(self, prompts: Sequence[Prompt]) -> list[Draft]:
        """Return one first image per prompt."""
        ...

    def improved(self, asked: Sequence[Redraw]) -> list[np.ndarray]:
        """Return one improved image per item."""
        ...


@dataclass
class Drawings:
    """The images of a data set, wherever they come from. `painter` loads a model. It is called only if something must
    be drawn, and once per model."""

    out: Path
    recipe: DataRecipe
    painter: Callable[[str], Painter]
    editor: Service | None = None
    thoughts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.painter = cache(self.painter)
        images, improve = self.recipe.images, self.recipe.improve
        if images.folder is not None:
            self.first_images = ImageFolder(Path(images.folder), images.name)
        else:
            self.first_images = ImageFolder(self.out / "first", "{line:06d}.png")
        self.improved_images = None
        if improve.folder is not None:
            self.improved_images = ImageFolder(Path(improve.folder), improve.name)

    def draw_first(self, candidates: Sequence[Candidate]) -> None:
        """If a model draws the first images, draw those that are not drawn yet, and give every candidate the model's
        think text as its plan. An image is drawn again if its file is not complete."""
        if self.recipe.images.model is None:
            return
        path = self.out / THOUGHTS
        if not self.thoughts and path.is_file():
            self.thoughts = {entry["prompt"]: entry for _, entry in whole_lines(path, [])}
            if not path.read_bytes().endswith(b"\n"):  # a line was cut off when a build was killed
                write_whole(path, path.read_bytes() + b"\n")
        todo = [one for one in candidates if not self._is_drawn(one)]
        if todo:
            drafts = self.painter(self.recipe.images.model).first([one.prompt for one in todo])
            for one, draft in zip(todo, drafts, strict=True):
                write_whole(self.first_images.path(one.asked), to_png(draft.pixels))
                entry = {"prompt": one.prompt.id, "think": draft.think, "is_finished": draft.is_finished}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                self.thoughts[one.prompt.id] = entry
        for one in candidates:
            entry = self.thoughts[one.prompt.id]
            if entry["is_finished"]:
                one.plan = entry["think"]
            else:
                one.leave_out(THOUGHT, "unfinished, so the teacher's plan is used")

    def _is_drawn(self, one: Candidate) -> bool:
        return one.prompt.id in self.thoughts and is_whole(self.first_images.path(one.asked))

    def draw_improved(self, candidates: Sequence[Candidate]) -> None:
        """Propose an improved image for each candidate, if a model or an editor draws them. All candidates have a
        reflection that asks for a change."""
        by = self.recipe.improve.by
        if by not in ("model", "editor"):
            return
        todo = [one for one in candidates if not is_whole(self._improved_path(one))]
        if by == "model":
            self._redraw(todo)
        else:
            in_threads(self._edit, todo, self.recipe.concurrency)
        for one in candidates:
            if not any(left.what == IMPROVED for left in one.waiting):
                propose(one, self._improved_path(one))

    def _redraw(self, todo: Sequence[Candidate]) -> None:
        model = self.recipe.redrawing_model
        if not todo or model is None:
            return
        asked = [
            Redraw(one.prompt, tagged(one.plan or ""), _first(one).pixels, tagged(one.reflection or "")) for one in todo
        ]
        for one, pixels in zip(todo, self.painter(model).improved(asked), strict=True):
            write_whole(self._improved_path(one), to_png(pixels))

    def _edit(self, one: Candidate) -> None:
        settings = self.recipe.improve.editor
        assert self.editor is not None and isinstance(settings, EditorRecipe)
        values = {"prompt": one.prompt.text, "reflection": one.reflection or ""}
        instruction = re.sub(r"\{(prompt|reflection)\}", lambda found: values[found[1]], settings.instruction)
        path = self._improved_path(one)

        def keep(completion: Any) -> str:
            image = edited_image(completion)
            write_whole(path, to_png(image.pixels))
            return path.name

        try:
            # The file is what is remembered. If it was removed, the editor is asked again.
            self.editor.ask(IMPROVED, one.prompt.id, instruction, [_first(one).png], keep, is_remembered=False)
        except QuestionFailed as failure:
            one.waiting.append(LeftOut(one.prompt.id, IMPROVED, failure.reason, failure.detail))

    def _improved_path(self, one: Candidate) -> Path:
        """Return the file of a candidate's improved image. Its name depends on all that the image is drawn from. So an
        image is never taken for that of another reflection."""
        words = json.dumps([_first(one).digest, one.plan, one.reflection])
        digest = hashlib.sha256(words.encode()).hexdigest()[:12]
        return self.out / "improved" / f"{one.asked.number:06d}-{digest}.png"


def edited_image(completion: Any) -> FoundImage:
    """Return the image in an editor's chat completion. It is a data URL, in an `image_url` part of the message's
    content or in the list `images` of the message. Raises Unanswered if there is none, or if it cannot be used."""
    try:
        message = completion["choices"][0]["message"]
        content = message.get("content")
        parts = [*(content if isinstance(content, list) else []), *(message.get("images") or [])]
        urls = [part["image_url"]["url"] for part in parts if isinstance(part, dict) and "image_url" in part]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unanswered(f"no chat completion: {completion!r:.120}") from error
    if not urls or not isinstance(urls[0], str):
        raise Unanswered(f"no image in the answer: {message!r:.120}")
    if not urls[0].startswith("data:image/"):
        raise Unanswered(f"the image is no data URL, and nothing is downloaded: {urls[0]!r:.80}")
    try:
        return usable_image(image_bytes(urls[0]), "the edited image")
    except (BrokenRow, UnusableImage) as error:
        raise Unanswered(str(error)) from error


def _first(one: Candidate) -> FoundImage:
    assert one.first is not None, "only a candidate with a first image gets a reflection"
    return one.first

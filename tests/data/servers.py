"""Teachers, editors and judges behind real HTTP servers, which make mistakes at a stated rate."""

import base64
import io
import json
import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from irg_rl.config.data_questions import IRG_HEADINGS
from irg_rl.shapes_world import teacher_mind
from irg_rl.shapes_world.edits import apply_edits
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.teacher import parse_reflection
from rewards.judge_server import parse_request
from tests.rewards.servers import endpoint, spoken

FRENCH = "Cette image est une belle chose qui est dans la nuit, et le ciel est avec les nuages sur la mer du nord."


def said(text: str, finish: str = "stop", tokens: int | None = 100) -> dict:
    """A chat completion of a text, with the number of tokens that it cost."""
    completion = spoken(text)
    completion["choices"][0]["finish_reason"] = finish
    return completion | ({} if tokens is None else {"usage": {"total_tokens": tokens}})


def drawn(pixels: np.ndarray) -> dict:
    """A chat completion of an image, as vLLM-Omni's image models send it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return spoken([{"type": "image_url", "image_url": {"url": url}}])


@dataclass
class Erring:
    """Makes a share of all answers wrong, and another share wrong in its form alone. It counts both. What happens to a
    question depends on the question alone, so a repeated build meets the same mistakes."""

    mistakes: float = 0.0
    forms: float = 0.0
    answers: int = 0
    wrong: int = 0
    malformed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spoil(self, question: str, prompt: str, text: str) -> dict:
        chance = random.Random(question)
        fate = chance.random()
        with self.lock:
            self.answers += 1
            self.wrong += fate < self.mistakes
            self.malformed += self.mistakes <= fate < self.mistakes + self.forms
        if fate < self.mistakes:
            return said(*chance.choice([(FRENCH,), (prompt,), ("I'm sorry, but I can't help.",), (text[:9], "length")]))
        if fate < self.mistakes + self.forms:
            return said(chance.choice([f"<think> {text} </think>", f"```\n{text}\n```", f"<think>hm</think>{text}"]))
        return said(text)


def question_of(body: dict) -> tuple[str, list[np.ndarray]]:
    request = parse_request(json.dumps(body).encode())
    return request.question, list(request.images)


@contextmanager
def shapes_server(erring: Erring, before=lambda number: None):
    """The shapes world's teacher (model `teacher`) and an editor (model `editor`) that makes exactly the changes of a
    reflection. `before(number)` may answer the request of this number itself."""

    def reply(number: int, body: dict):
        if (own := before(number)) is not None:
            return own
        question, images = question_of(body)
        if body["model"] == "editor":
            return 200, edited(images[0], question), 0
        return 200, erring.spoil(question, question.split('"')[1], teacher_mind.answer(question, tuple(images)).text), 0

    with endpoint(reply) as (url, requests):
        yield url, requests


def edited(image: np.ndarray, reflection: str) -> dict:
    parsed = parse_reflection(f"<think> {reflection} </think>")
    assert parsed is not None, reflection
    return drawn(apply_edits(image, read(image), list(parsed.edits), random.Random(0)))


# --- natural images: a teacher in IRG's template and a judge that looks at contrast

PLAN = "A quiet landscape under a wide sky, with soft light and long hills that fade into the distance."
REFLECTION = "\n".join([
    "The picture shows hills under a sky, but it is pale and has little contrast.",
    f"### {IRG_HEADINGS[0]}", "The light and the dark parts have to differ more.",
    f"### {IRG_HEADINGS[1]}", "Make the sky brighter and the hills darker. Keep the shapes as they are.",
    f"### {IRG_HEADINGS[2]}", "Dark hills under a bright sky, in the same composition.",
])  # fmt: skip
DONE = "The picture shows dark hills under a bright sky. Nothing to change."


def contrast(image: np.ndarray) -> float:
    return float(image.std())


@contextmanager
def landscape_server(erring: Erring, good: float, refuses=lambda number: False):
    """A teacher and a judge (models of these names) of landscapes: an image is good if its contrast is above `good`.
    The judge refuses the requests of which `refuses(number)` is true."""

    def reply(number: int, body: dict):
        question, images = question_of(body)
        if body["model"] == "judge":
            if refuses(number):
                return 200, said("I'm sorry, I cannot judge this."), 0
            if "1 or 2" in question:
                return 200, said("1" if contrast(images[0]) > contrast(images[1]) else "2"), 0
            return 200, said("yes" if "true" in question or contrast(images[0]) > good else "no"), 0
        prompt = question.split('"')[1]
        if "Write the plan" in question:
            return 200, erring.spoil(question, prompt, f"{PLAN} It is a view of {prompt.split()[-1]}."), 0
        return 200, erring.spoil(question, prompt, DONE if contrast(images[0]) > good else REFLECTION), 0

    with endpoint(reply) as (url, requests):
        yield url, requests


def landscape(seed: int, depth: float) -> np.ndarray:
    """A 64-pixel picture with the statistics of a photo: a sky with a gradient and clouds, hills with texture, and
    noise. `depth` from 0 to 1 is its contrast."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:64, 0:64] / 63
    clouds = np.zeros((64, 64))
    for scale in (1, 2, 4, 8):
        across = rng.normal() * row + rng.normal() * column
        clouds += rng.normal() / scale * np.sin(2 * np.pi * scale * across + rng.uniform(0, 6))
    ridge = 0.55 + 0.12 * np.sin(2 * np.pi * (column * rng.uniform(0.5, 2) + rng.uniform()))
    hills = (row > ridge).astype(float)
    light = (0.9 - 0.3 * row + 0.08 * clouds) * (1 - hills) + (0.25 + 0.2 * (row - ridge)) * hills
    tint = np.array([0.9, 1.0, 1.1]) * (1 - hills[..., None]) + np.array([0.8, 1.1, 0.6]) * hills[..., None]
    picture = 0.5 + depth * (light[..., None] * tint - 0.5) + rng.normal(0, 0.02, (64, 64, 3))
    return (picture.clip(0, 1) * 255).astype(np.uint8)

"""Answers questions about images, as the built-in judge. It reads the pixels with the checker of the shapes world, and
the words with a small parser.

The judge makes small, reproducible errors on purpose. Its belief that an image is right is a number, the logit of
"yes". This logit is a function of the checker's graded score, plus noise. The noise depends on the seed, the image and
the question. When the judge compares two images, it slightly prefers the first one, as real judges do. If it cannot
parse a question, its answer is a text that says neither yes nor no. The program that asked must count such an answer as
a failure.
"""

import hashlib
import math
import random

import numpy as np
from PIL import Image as PILImage

from irg_rl.shapes_world.check import judge_demand
from irg_rl.shapes_world.following import following, statements_true
from irg_rl.shapes_world.judge_language import AskedOfReflection, NotUnderstood, parse_question
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.scene import WORLD
from irg_rl.task import Answer, Pixels

# The logit of "yes" at graded score g is about -6.5 + 8 g, plus 1.5 if the image is right. So P(yes) is .95 for a right
# image, .4 if one of four demands fails, and .01 for a very bad image. Noise moves a right image between .87 and .98.
OFFSET, SLOPE, BONUS, NOISE = -6.5, 8.0, 1.5, 0.5
FIRST_POSITION_BIAS = 0.4


def answer(question: str, images: tuple[Pixels, ...], seed: int = 0) -> Answer:
    """Return the judge's answer to a question. A question can be a yes/no question about an image, a reflection or an
    edit. It can also ask which of two images fits a prompt better. The answer has a text and the probabilities of the
    possible words. The answer has no probabilities in two cases: the question cannot be parsed, or `images` does not
    have the number of images that the question needs. `seed` determines the random errors that the judge makes on
    purpose."""
    try:
        asked = parse_question(question)
    except NotUnderstood as puzzle:
        return Answer(f"I am not sure what is asked: {puzzle}")
    if len(images) != asked.images:
        return Answer(f"I was asked about {asked.images} image(s) and see {len(images)}.")
    readings = [read(_at_world_size(image)) for image in images]
    noises = [_noise(image, question, seed) for image in images]
    if isinstance(asked, AskedOfReflection):
        share = statements_true(asked.reflection, readings[0]) if asked.images == 1 else following(
            asked.reflection, *readings
        )  # fmt: skip
        return _yes_or_no(_belief(share, share == 1.0) + noises[-1])
    verdicts = [judge_demand(reading.objects, asked.demand) for reading in readings]
    beliefs = [_belief(found.score, found.correct) + noise for found, noise in zip(verdicts, noises)]
    if asked.images == 1:
        return _yes_or_no(beliefs[0])
    p = _sigmoid(beliefs[0] - beliefs[1] + FIRST_POSITION_BIAS)
    return Answer("1" if p > 0.5 else "2", {"1": p, "2": 1 - p})


def _belief(score: float, right: bool) -> float:
    """Return how strongly the judge believes in "yes", as a logit without noise. `score` in [0, 1] says how much of
    what was asked holds, and `right` whether all of it holds."""
    return OFFSET + SLOPE * score + BONUS * right


def _noise(image: Pixels, question: str, seed: int) -> float:
    """Return the judge's error of judgement, which is added to its belief. It is random, but depends only on `seed`,
    `question` and the image."""
    digest = hashlib.sha256(f"{seed}\n{question}\n".encode() + image.tobytes()).digest()
    return random.Random(int.from_bytes(digest[:8], "big")).gauss(0, NOISE)


def _yes_or_no(belief: float) -> Answer:
    p = _sigmoid(belief)
    return Answer("Yes" if p > 0.5 else "No", _spellings("Yes", "No", p))


def _at_world_size(image: Pixels) -> Pixels:
    side = WORLD.pixels
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(PILImage.fromarray(image).resize((side, side), PILImage.Resampling.BOX))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _spellings(yes: str, no: str, p: float) -> dict[str, float]:
    """Return a dict of token probabilities similar to those of a real model. `p` is the probability of the word `yes`.
    The dict has five tokens: the words `yes` and `no` as given, both words in lower case, and one unrelated token."""
    return {yes: 0.95 * p, no: 0.95 * (1 - p), yes.lower(): 0.04 * p, no.lower(): 0.04 * (1 - p), "The": 0.01}

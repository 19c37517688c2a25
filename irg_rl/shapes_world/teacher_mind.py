"""Answers the questions of `irg-rl data build` as the teacher of the shapes world: it writes plans and reflections in
the words of teacher.py.

It understands the built-in questions (irg_rl/config/data_questions.py). It gets the prompt as words and the image as
pixels, as a real model would. If it does not understand a prompt, it says so, and the program counts this as a refusal.
"""

import hashlib
import random
import re

from irg_rl.shapes_world.constraints import make_metadata
from irg_rl.shapes_world.judge_language import NotUnderstood, parse_prompt
from irg_rl.shapes_world.judge_mind import at_world_size
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.teacher import reflect, think_text
from irg_rl.task import Answer, Pixels

_PROMPT = re.compile(r'"(.+?)"', re.DOTALL)


def answer(question: str, images: tuple[Pixels, ...], seed: int = 0) -> Answer:
    """Return the teacher's text. With two images, the text is about the first one."""
    quoted = _PROMPT.search(question)
    try:
        demand = parse_prompt(quoted[1] if quoted else "")
    except NotUnderstood as puzzle:
        return Answer(f"I am sorry, I do not understand the prompt: {puzzle}.")
    metadata = make_metadata("", quoted[1] if quoted else "", list(demand.includes), list(demand.relations))
    if "Write the plan" in question or not images:
        return Answer(_bare(think_text(metadata)))
    digest = hashlib.sha256(f"{seed}\n{question}\n".encode() + images[0].tobytes()).digest()
    text, _ = reflect(read(at_world_size(images[0])), metadata, random.Random(digest))
    return Answer(_bare(text))


def _bare(text: str) -> str:
    """Return a text of the teacher without its tags. The program adds them again."""
    return text.removeprefix("<think> ").removesuffix(" </think>")

"""Texts for training a tokenizer. They contain all words of the shapes world, so that each word becomes one token."""

import random
from collections.abc import Iterator

from irg_rl.shapes_world.base_rows import READING, base_example
from irg_rl.shapes_world.check import DefectKind
from irg_rl.shapes_world.constraints import NUMBERS
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import scene_reading
from irg_rl.shapes_world.scene import CELLS, COLORS, SHAPES
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import BLUR, IMPROVING_QUESTION, INITIAL_QUESTION, STOP, reflect, think_text


def corpus(n: int = 2000, seed: int = 0) -> Iterator[str]:
    """Yield three texts for each of `n` train prompts: the prompt, its think text (what the picture must show) and a
    reflection (the errors of a picture and their repairs). For every eighth prompt, also yield questions, answers, the
    text "nothing to change", and a word list. It has all words for cells, numbers, colours, shapes and defects."""
    rng = random.Random(seed)
    for index, prompt in enumerate(make_prompts(n, "train", seed)):
        yield prompt.text
        yield think_text(prompt.metadata)
        wrong = corrupt(sample_scene(prompt.metadata, rng), prompt.metadata, rng, rng.randint(1, 3))
        yield reflect(scene_reading(wrong), prompt.metadata, rng)[0]
        if index % 8 == 0:
            yield from (INITIAL_QUESTION, IMPROVING_QUESTION, STOP, *base_example(READING, rng)[0])
            yield " ".join(("", *CELLS, *NUMBERS, *COLORS, *SHAPES, *DefectKind, BLUR))

"""The verifier and the reflection check of the shapes world, in the form `outcomes.collect` asks for."""

import numpy as np

from irg_rl.evaluate.outcomes import Pixels
from irg_rl.shapes_world.check import Verdict, judge
from irg_rl.shapes_world.reading import read, read_batch
from irg_rl.shapes_world.teacher import parse_reflection, reflection_correct
from irg_rl.trajectory import Prompt


def verify(images: list[Pixels], prompts: list[Prompt]) -> list[Verdict]:
    """Read every image and judge it by the metadata of its prompt."""
    if not images:
        return []
    readings = read_batch(np.stack(images))
    return [judge(reading, prompt.metadata) for reading, prompt in zip(readings, prompts, strict=True)]


def check_reflection(text: str, image: Pixels, prompt: Prompt) -> bool:
    """Whether the text states only defects that the checker reads in the image, or rightly that there are none."""
    return reflection_correct(parse_reflection(text), read(image), prompt.metadata)

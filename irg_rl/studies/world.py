"""What the shapes world lends to studies: which prompts are its own, and cells that nobody can read."""

from collections.abc import Sequence

import numpy as np

from irg_rl.evaluate.outcomes import Pixels
from irg_rl.shapes_world.constraints import parse_metadata
from irg_rl.shapes_world.reading import read_batch
from irg_rl.shapes_world.scene import WORLD
from irg_rl.trajectory import Prompt


def is_world(prompts: Sequence[Prompt], image_size: Sequence[int]) -> bool:
    """Whether all prompts ask for scenes of the shapes world and images have its size."""
    if tuple(image_size) != (WORLD.pixels, WORLD.pixels):
        return False
    try:
        for prompt in prompts:
            parse_metadata(prompt.metadata)
    except ValueError:
        return False
    return True


def unclear_cells(images: Sequence[Pixels]) -> list[int]:
    """Cells of each image whose content the checker cannot read, of nine."""
    return [len(reading.unclear) for reading in read_batch(np.stack(images))] if len(images) else []

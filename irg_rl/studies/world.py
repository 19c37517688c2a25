"""What the shapes world lends to studies, where prompts and pictures are its own: cells that nobody can read, and other
words for a reflection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from irg_rl.shapes_world.paraphrase import paraphrase
from irg_rl.shapes_world.reading import read_batch
from irg_rl.shapes_world.task import ShapesWorld
from irg_rl.task import Pixels, Task
from irg_rl.trajectory import Prompt


@dataclass(frozen=True)
class Loan:
    """None stands for what only the shapes world has."""

    unclear: Callable[[list[Pixels]], list[int]] | None = None
    paraphrase: Callable[[str], str | None] | None = None


def loan_of(task: Task, prompts: Sequence[Prompt]) -> Loan:
    """What studies of these prompts may use of the shapes world."""
    if isinstance(task, ShapesWorld) and all(task.judges(prompt) for prompt in prompts):
        return Loan(unclear_cells, paraphrase)
    return Loan()


def unclear_cells(images: Sequence[Pixels]) -> list[int]:
    """Cells of each image whose content the checker cannot read, of nine."""
    return [len(reading.unclear) for reading in read_batch(np.stack(images))] if len(images) else []

"""Two functions for studies in the shapes world (the task with coloured shapes in a grid of nine cells). One counts the
cells of an image that the checker cannot read. The other rewrites a reflection in other words. The two functions are
available only if the prompts belong to the shapes world."""

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
    """Two functions of the shapes world (the task with coloured shapes in a grid of nine cells) that a study may use.
    `unclear` takes images and returns, for each image, the number of cells that the checker cannot read. `paraphrase`
    takes a reflection and returns it in other words. The two fields are None if the prompts do not belong to the shapes
    world."""

    unclear: Callable[[list[Pixels]], list[int]] | None = None
    paraphrase: Callable[[str], str | None] | None = None


def loan_of(task: Task, prompts: Sequence[Prompt]) -> Loan:
    """Return the two functions `unclear` and `paraphrase`, if they can be used for these prompts. The first counts the
    cells of an image that the checker cannot read. The second rewrites a reflection in other words. They are for the
    shapes world only (the task with coloured shapes in a grid of nine cells). If `task` is another task, or if a prompt
    does not belong to the shapes world, both fields of the result are None."""
    if isinstance(task, ShapesWorld) and all(task.judges(prompt) for prompt in prompts):
        return Loan(unclear_cells, paraphrase)
    return Loan()


def unclear_cells(images: Sequence[Pixels]) -> list[int]:
    """Return one number per image: how many of its nine cells the checker cannot read. The images belong to the shapes
    world (coloured shapes in a grid of nine cells)."""
    return [len(reading.unclear) for reading in read_batch(np.stack(images))] if len(images) else []

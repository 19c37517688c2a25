"""Every example is short and runs."""

import numpy as np
import pytest

from irg_rl.config import parse_recipe
from irg_rl.task import task_of
from tests.learner.world import CONFIG
from tests.paths import CONFIGS

EXAMPLES = sorted((CONFIGS.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_at_most_thirty_lines(path):
    assert len(path.read_text().splitlines()) <= 30


def test_the_task_of_ones_own_says_which_walls_have_their_colour():
    recipe = {"name": "walls", "model": CONFIG.model_dump(mode="json"), "task": "examples.own_task:Walls"}
    task = task_of(parse_recipe(recipe))
    red, green, blue = task.prompts("test")[:3]
    wall = np.zeros((8, 8, 3), np.uint8)
    wall[..., 0], wall[..., 1] = 200, 100
    verdicts = [verdict.correct for verdict in task.verdicts([wall] * 3, [red, green, blue])]
    assert verdicts == [True, False, False] and {p.text for p in task.prompts("train")}.isdisjoint({red.text})

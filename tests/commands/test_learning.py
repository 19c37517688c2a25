"""The driver's side of learning: one learner rank in an actor of its own, and checkpoints on the disk."""

import pytest

from irg_rl.commands.learning import Learners
from irg_rl.commands.prepare import prompts_file
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.shapes_world.prompts import write_prompts
from tests.commands.begun import PROMPTS, begun_run


@pytest.fixture
def learners(local_ray, world, tmp_path):
    made = Learners(begun_run(world, tmp_path), "base")
    yield made
    made.stop()


def test_rl_goes_on_with_the_prompts_of_its_checkpoint_only(learners):
    assert learners.resume() is None
    learners.save({"slots": "as they were"})
    assert learners.resume() == {"slots": "as they were"}
    write_prompts(prompts_file(learners.run, "train"), PROMPTS[::-1])
    with pytest.raises(CheckpointError, match="the data changed since the checkpoint"):
        learners.resume()

"""`rl.seed` moves RL alone: several seeds share one world."""

import pytest

from irg_rl.cluster.slots import SlotBuffer
from irg_rl.config import load_recipe
from irg_rl.driver.prepare import make_world
from irg_rl.driver.rl_loop import collector_of
from irg_rl.driver.rl_settings import learner_settings, worker_settings
from irg_rl.driver.run_folder import Run
from tests.paths import CONFIGS


@pytest.fixture
def made(tmp_path):
    """made(*overrides) -> a run with its world."""

    def make(*overrides: str) -> Run:
        few = "sft=null", "task_options.train_prompts=40", "task_options.test_prompts=16", f"output_dir={tmp_path}"
        run = Run.create(load_recipe(CONFIGS / "shapes-smoke.yaml", [*few, *overrides]))
        make_world(run)
        return run

    return make


def seeds(run: Run) -> set[int]:
    collector = collector_of(run, SlotBuffer(1, 0), rollouts=None, critics=None)
    learner, worker = (settings(run.recipe, "models/sft2") for settings in (learner_settings, worker_settings))
    return {learner.seed, worker.seed, collector.prompts.seed}


def test_all_of_rl_has_its_own_seed_or_that_of_the_recipe(made):
    """Fails where learner, samplers or the order of the prompts take the seed of the recipe in place of `rl.seed`."""
    assert seeds(made("seed=3", "rl.seed=7")) == {7}
    assert seeds(made("seed=3", "rl.seed=0")) == {0}
    assert seeds(made("seed=3")) == {3}


def test_the_world_keeps_the_seed_of_the_recipe(made):
    runs = made("rl.seed=1"), made("rl.seed=2"), made("seed=1", "rl.seed=1")
    for split in ("train", "test"):
        one, other, elsewhere = ((run.folder / "world" / f"{split}.jsonl").read_bytes() for run in runs)
        assert one == other != elsewhere

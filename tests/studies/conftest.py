"""A bench over the tiny model and three prompts of the shapes world."""

import pytest

from irg_rl.config import parse_recipe
from irg_rl.model.folder import save_folder
from irg_rl.shapes_world.paraphrase import paraphrase
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.studies.bench import Bench, Subject
from irg_rl.studies.world import unclear_cells
from irg_rl.task import task_of
from tests.learner.world import CONFIG
from tests.studies.frames import COMMIT

RECIPE = {
    "name": "tiny", "model": CONFIG.model_dump(mode="json"),
    "sampling": {"points": 3, "max_text_tokens": 6, "turns": 2},
    "evaluation": {"prompts": 3, "batch_size": 2, "noise": {"kind": "cps", "window": "all", "window_range": [0, 2]}},
    "rl": {"noise": {"window_size": 1, "window_range": [0, 2]}},
    "rewards": {"scorers": [{"name": "verifier", "kind": "verifier"}]},
}  # fmt: skip


@pytest.fixture(scope="package")
def model_path(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return path


@pytest.fixture
def bench(model_path) -> Bench:
    recipe = parse_recipe(RECIPE)
    sampling = recipe.sampling.model_copy(update={"temperature": 0.0})
    subject = Subject("tiny", model_path, recipe, sampling, "trained n=2")
    prompts = make_prompts(3, "test", seed=0)
    task = task_of(recipe)
    return Bench(
        [subject], prompts, task.verdicts, task.check_reflection, unclear_cells, paraphrase, None, COMMIT
    )

"""How Ray divides GPUs between the actors of RL. Ray counts GPUs that are not there when it is told to."""

import pytest
import ray

from irg_rl.cluster.ray_runtime import LocalRay, RaySettings, actor_options, bounded_get
from irg_rl.config import load_recipe
from tests.paths import CONFIGS

DEADLINE_S = 120


@ray.remote
class Actor:
    def gpus(self) -> list:
        return ray.get_gpu_ids()


@pytest.mark.slow
def test_the_critic_finds_a_place_beside_a_rollout_actor_when_every_gpu_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
    recipe = load_recipe(CONFIGS / "bagel-lora-grpo.yaml", ["engine.learner_ranks=1", "engine.rollout_actors=1"])
    wanted = recipe.engine.gpus, recipe.rollout_gpus, recipe.critic_gpus
    with LocalRay(RaySettings(num_cpus=2), tmp_path):
        actors = [Actor.options(**actor_options(threads=1, cpus=0, gpus=gpus)).remote() for gpus in wanted]
        asked = [actor.gpus.remote() for actor in actors]
        learner, rollout, critic = bounded_get(asked, DEADLINE_S, "actors on GPUs")
    assert critic == rollout != learner

"""The hub behind Ray: pixels and prompts in, scores out, failures named."""

import random

import numpy as np
import pytest
import ray
import torch

from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from rewards.judge_server import JudgeServer
from rewards.worker import start_worker


@pytest.fixture(scope="module")
def cluster():
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    if started:
        ray.shutdown()


def test_a_group_is_scored_by_verifier_and_judge_in_another_process(cluster):
    rng = random.Random(0)
    prompts = make_prompts(3, "train", seed=0)
    scenes = [sample_scene(prompt.metadata, rng) for prompt in prompts]
    images = [render(scene) for scene in scenes] + [render(corrupt(scenes[0], prompts[0].metadata, rng, 1))]
    prompts.append(prompts[0])
    # one image as the trajectory holds it, a torch tensor
    items = [(torch.from_numpy(images[0].copy()), prompts[0]), *zip(images[1:], prompts[1:])]
    with JudgeServer() as judge:
        worker = start_worker(
            [
                {"name": "verifier", "kind": "verifier", "held_out": True},
                {"name": "judge", "kind": "judge", "base_url": judge.base_url},
            ]
        )
        ray.get(worker.check.remote(), timeout=120)
        scores = ray.get(worker.score.remote(items), timeout=60)
        log = ray.get(worker.log.remote(), timeout=60)
    ray.kill(worker)
    assert scores["verifier"][:3] == [1.0, 1.0, 1.0] and scores["verifier"][3] < 1
    assert min(scores["judge"][:3]) > 0.5 > scores["judge"][3]
    assert log["reward/judge/images"] == 4


def test_a_scorer_that_fails_too_often_says_so_across_processes(cluster):
    spec = {"name": "judge", "kind": "judge", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    worker = start_worker([spec], retries=0, min_images=1)
    prompt = make_prompts(1, "train", seed=0)[0]
    with pytest.raises(ray.exceptions.RayTaskError) as failure:
        ray.get(worker.score.remote([(np.zeros((32, 32, 3), np.uint8), prompt)]), timeout=120)
    ray.kill(worker)
    assert "'judge' failed on 1 of its last 1 images" in str(failure.value.cause)
